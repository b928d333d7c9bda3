"""Drive block traces into volumes and servers, and check every moment."""

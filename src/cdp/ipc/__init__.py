"""Unix sockets, and messages on them."""

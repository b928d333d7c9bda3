"""The core of one volume: its requests, on the log and the index."""

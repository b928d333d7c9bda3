"""The server: exports, HTTP API, LUNs, the cache of time images."""

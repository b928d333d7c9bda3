"""Shared memory between a gateway and a daemon, and what runs on it."""

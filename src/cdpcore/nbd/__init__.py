"""The transmission phase of NBD."""

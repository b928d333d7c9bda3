"""Verify a volume, and rebuild what can be derived."""

"""Sizes, timestamps and paths: read from text and written as text."""

"""Errors and status, CRC-32C, and the C declarations that every layer shares."""

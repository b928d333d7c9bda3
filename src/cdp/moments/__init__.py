"""Moments of a volume, without I/O: points, lineage, the public records."""

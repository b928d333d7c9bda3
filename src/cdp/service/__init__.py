"""The operations on a volume, local or through its server, behind one protocol."""

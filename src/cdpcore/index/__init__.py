"""Which version of a sector is where: extent trees, runs, look-ups, views."""

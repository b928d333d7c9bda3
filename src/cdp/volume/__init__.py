"""The library's object: volume, time images, writable images, restores."""

"""Capture beside the data path: what a source that is not ours writes becomes the history of a volume of ours.

    source    a write log that may still be growing: where it is, how far it counts, whether it is still the same one
    tail      its entries, from a position on, in pieces with their data
    position  how far a volume has come (VOLUME/capture.json), and what its records say beyond that
    follow    the loop: entries into the volume, exactly once, and how far behind it is
    mirror    the other way in: an NBD export that a client mirrors into, and the moments at which that is whole
    hosting   the server that shows the volume meanwhile

docs/capture.md has the guarantees and the limits.
"""

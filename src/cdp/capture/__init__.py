"""Capture beside the data path: what another program writes to its disk becomes the history of a volume.

    source       a write log that may still be growing: where it is, how far it counts, whether it is still the same one
    log_entries  its entries, from a position on, in pieces with their data
    position     how far a volume has come (VOLUME/capture.json), and what its records say beyond that
    follow       the loop: entries into the volume, exactly once; lag: how far behind it is
    mirror       the other way in: an NBD export that a client mirrors into, and the moments at which that is whole
    status       a capture as plain data, for `cdp info` and `cdp capture --status`

The server that shows the volume meanwhile is cdp.serve.capturing. docs/capture.md has the guarantees and the limits.
"""

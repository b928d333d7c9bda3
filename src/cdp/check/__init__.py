"""Verify a volume, and rebuild what can be derived.

    check    every checksum of log, runs and catalog, and whether they agree
    catalog  whether bookmarks and restores of catalog and log agree
    scrub    all that is sealed, read piece by piece beside the I/O
    rebuild  catalog and runs anew from the log

The disk of a before-image volume is checked by cdp.store.disk_check.
"""

"""Verify a volume, and rebuild what can be derived.

    check           every checksum of log, runs and catalog, and whether they agree
    catalog         whether bookmarks and restores of catalog and log agree
    protected_disk  the disk of a before-image volume, and whether it fits the log
    rebuild         catalog and runs anew from the log
"""

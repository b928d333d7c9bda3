"""Moments of a volume, without I/O: points, lineage, the public records.

    points      how a user names a moment: parsed here, resolved by cdp.volume
    wall_clock  at which instants a clock showed a time, when clocks are put back and forward
    lineage     which seqs are visible at a moment, given the restores
    model       Moment, Window, Restore ...: what the public API returns
    records     kinds and flags of the log's records
"""

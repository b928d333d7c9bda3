"""Moments of a volume, without I/O: points, lineage, the public records, retention.

    points      how a user names a moment: parsed here, resolved by cdp.volume
    wall_clock  at which instants a clock showed a time, when clocks are put back and forward
    lineage     which seqs are visible at a moment, given the restores
    model       Moment, Window, Restore ...: what the public API returns
    events      what happens to an open volume, as a stream for who watches
    records     kinds and flags of the log's records
    bisection   the search between a good and a bad one
    policy      what is to be kept for how long, as a user writes it
    ages        how old a record is, by clocks that do not jump
    limit       what a limit of the history does to writes
    retention   what a policy keeps of a history, and what it gives up
    thinned     which moments of the middle can be opened once tiers are carried out, which nothing does yet
"""

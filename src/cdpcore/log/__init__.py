"""The log: memory, frame ring, segments, appending, sealing.

    log           appending, group commit, durability: a write is durable when Log.wait_durable returns
    writer        frames written and synced: who does it, what is written and durable
    ring          the frames, in slots (slots.c: found by location); memory: how much of it the logs of a process have
    segments      the open segment, the spare one, the one set aside; segment_fds: handles to read older ones;
                  pace.pxd: in what steps they are allocated
    sealing       what the maintenance thread does with the segment that was set aside
    segment_file  a segment read, and what recovery makes of one that a crash left open
    picked        the descriptors of a few records of a sealed segment
    log_reader    the data of a record: from a slot that still has it, or, checked, from a segment file
    picked        the descriptors of a few records of a sealed segment, for the history of a range
    block_sums.c  checksums of the blocks of a file, and checked reads; segment_sums.c: of a sealed segment
    sums_cache    pages of the tables of sealed segments; sums_pages, sums_slots.c: in memory, found without a lock
    sums_file     a table in a file of its own: of the base, and of segments that were sealed without one
    damage        the blocks that did not match
    clock_steps   the times of records, and where the clock went back
    activity.c    what a segment's records do, counted; summaries: read, and made of others from their descriptors
    tail          the end of the log as readers see it, from memory
    shipping      the log as it is sent to a standby; frames verified as they come
    frame.c       frames built and parsed; segment.c: segment files made
"""

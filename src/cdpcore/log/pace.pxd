"""How much of its segments a log allocates ahead: steps that follow the rate at which it is written."""
from libc.stdint cimport uint64_t
from cdpcore.base.format cimport CDP_BLOCK


cdef enum:
    STEP_BYTES = 1 << 20    # the first step, and the least; an eighth of a segment if that is less
    KEPT_SHARE = 4          # of the least step: what writes leave of what is allocated, at least
    FAST_MS = 1000          # a step that is used up sooner doubles ...
    RUN_BYTES = 32          # of a run, for each record: a version and an extent
    SLOW_MS = 16000         # ... and one that is not half used in this time is halved


# All of it guarded by the io lock. Positions are bytes of log since opening.
cdef struct pace:
    uint64_t least, most    # of a step, bytes
    uint64_t step
    uint64_t at_ms, at      # when and where the step was looked at last


cdef inline void pace_start(pace *p, uint64_t segment_bytes, uint64_t now_ms) noexcept nogil:
    p.least = p.step = min(segment_bytes // 8, <uint64_t>STEP_BYTES) // CDP_BLOCK * CDP_BLOCK
    p.most = segment_bytes
    p.at_ms = now_ms
    p.at = 0


# Now, and the position up to which the log is used.
cdef inline void pace_look(pace *p, uint64_t now_ms, uint64_t at) noexcept nogil:
    cdef uint64_t ms = now_ms - p.at_ms if now_ms > p.at_ms else 0      # the simulated clock is set back
    cdef bint used = at >= p.at + p.step // 2
    if now_ms < p.at_ms:
        p.at_ms = now_ms
    if not used and ms < SLOW_MS:
        return
    if used and ms < FAST_MS:
        p.step = min(2 * p.step, p.most)
    elif not used:
        p.step = max(p.step // 2 // CDP_BLOCK * CDP_BLOCK, p.least)
    p.at_ms = now_ms
    p.at = at

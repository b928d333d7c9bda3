"""A lineage in the shape the index reads (see cdp.lineage, which computes it)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from cdpcore.errors import InvalidRequest


cdef uint64_t PENDING = 0xFFFFFFFFFFFFFFFE      # cdp.lineage.PENDING


cdef class View:
    """Immutable. `pieces`: (start_sector, end_sector, [(lo, hi), ...]) ascending and adjacent from sector 0; intervals
    newest first and disjoint, visible are lo < seq <= hi. Raises InvalidRequest where a rule is broken."""

    def __cinit__(self, list pieces not None):
        cdef uint64_t at = 0, bound
        cdef uint32_t i = 0, k = 0
        n_intervals = sum(len(p[2]) for p in pieces)
        if not pieces or len(pieces) > 1 << 24 or n_intervals > 1 << 28:
            raise InvalidRequest("a view needs 1 to 2^24 pieces")
        self.pieces = <cdp_view_piece *>malloc(len(pieces) * sizeof(cdp_view_piece))
        self.intervals = <cdp_interval *>malloc((n_intervals + 1) * sizeof(cdp_interval))
        if self.pieces == NULL or self.intervals == NULL:
            raise MemoryError()
        for start, end, intervals in pieces:
            if start != at or end <= start:
                raise InvalidRequest(f"view piece {start}..{end} does not follow sector {at}")
            at = end
            self.pieces[i].start = start
            self.pieces[i].end = end
            self.pieces[i].first = k
            self.pieces[i].count = len(intervals)
            bound = 0xFFFFFFFFFFFFFFFF
            for lo, hi in intervals:
                if hi < lo or hi > bound:
                    raise InvalidRequest(f"view interval {lo}..{hi} is not older than the one before it")
                self.intervals[k].lo = bound = lo
                self.intervals[k].hi = hi
                k += 1
            i += 1
        self.v.n_pieces = i
        self.v.n_intervals = k
        self.v.pieces = self.pieces
        self.v.intervals = self.intervals

    def __dealloc__(self):
        free(self.pieces)
        free(self.intervals)

    cdef void settle(self, uint64_t seq) noexcept nogil:
        """The restore that was worked out as cdp.lineage.PENDING has this seq. Before anybody reads through the view."""
        cdef uint32_t i
        for i in range(self.v.n_intervals):
            if self.intervals[i].lo == PENDING:
                self.intervals[i].lo = seq

    @property
    def sectors(self) -> int:
        """How far the view reaches."""
        return self.pieces[self.v.n_pieces - 1].end

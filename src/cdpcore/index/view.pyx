"""A lineage in the shape the index reads (see cdp.moments.lineage, which computes it)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from cdpcore.base.errors import InvalidRequest


cdef uint64_t PENDING = 0xFFFFFFFFFFFFFFFE      # cdp.moments.lineage.PENDING


cdef class View:
    """Immutable. `pieces`: (start_sector, end_sector, [(lo, hi), ...]) ascending and adjacent from sector 0; intervals
    newest first and disjoint, visible are lo < seq <= hi. For before-images a fourth element may follow: the intervals
    [(lo, hi), ...] whose versions were freed, ascending and disjoint. Raises InvalidRequest where a rule is broken."""

    def __cinit__(self, list pieces not None):
        cdef uint64_t at = 0, bound
        cdef uint32_t i = 0, k = 0, f = 0
        n_intervals = sum(len(p[2]) for p in pieces)
        n_freed = sum(len(p[3]) for p in pieces if len(p) > 3)
        if not pieces or len(pieces) > 1 << 24 or n_intervals > 1 << 28 or n_freed > 1 << 28:
            raise InvalidRequest("a view needs 1 to 2^24 pieces")
        self.pieces = <cdp_view_piece *>malloc(len(pieces) * sizeof(cdp_view_piece))
        self.intervals = <cdp_interval *>malloc((n_intervals + 1) * sizeof(cdp_interval))
        self.freed = <cdp_interval *>malloc((n_freed + 1) * sizeof(cdp_interval))
        if self.pieces == NULL or self.intervals == NULL or self.freed == NULL:
            raise MemoryError()
        for start, end, intervals, *freed in pieces:
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
            self.pieces[i].first_freed = f
            bound = 0
            for lo, hi in freed[0] if freed else ():
                if hi < lo or lo < bound:
                    raise InvalidRequest(f"freed interval {lo}..{hi} is not newer than the one before it")
                self.freed[f].lo = lo
                self.freed[f].hi = bound = hi
                f += 1
            self.pieces[i].n_freed = f - self.pieces[i].first_freed
            i += 1
        self.v.n_pieces = i
        self.v.n_intervals = k
        self.v.pieces = self.pieces
        self.v.intervals = self.intervals
        self.v.n_freed = f
        self.v.freed = self.freed

    def __dealloc__(self):
        free(self.pieces)
        free(self.intervals)
        free(self.freed)

    cdef void set_pending(self, uint64_t seq) noexcept nogil:
        """The seq of the restore that the view names as cdp.moments.lineage.PENDING; before the view is used."""
        cdef uint32_t i
        for i in range(self.v.n_intervals):
            if self.intervals[i].lo == PENDING:
                self.intervals[i].lo = seq

    @property
    def sectors(self) -> int:
        """How far the view reaches."""
        return self.pieces[self.v.n_pieces - 1].end

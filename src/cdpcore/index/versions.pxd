"""Which version of a sector is visible: the extent trees and the snapshot of lineage and runs, under one short lock."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.index.index cimport cdp_history_row, cdp_piece, cdp_tree, cdp_view
from cdpcore.index.snapshot cimport cdp_run_ref, cdp_snapshot
from cdpcore.system.os cimport Os


cdef enum:
    FEW = 64                # pieces that need no memory
    ALL = 0                 # in place of a number of steps


# What resolve() found: pieces in a small array, or in a grown one; and the snapshot that led there. As long as it is
# held, nothing that the pieces point at is freed.
cdef struct pieces:
    cdp_piece *at
    uint64_t n
    uint64_t end            # sector at which they end
    uint64_t steps          # answers of trees and runs that were stitched; counted where there is a limit
    cdp_piece *heap
    cdp_snapshot *snapshot
    cdp_piece few[FEW]


# A range that a record gave a version.
cdef struct change:
    uint64_t start, end     # sectors
    uint64_t loc


# When something was looked up.
cdef struct moment:
    uint64_t seq            # the last record
    uint64_t generation     # of trees and runs


cdef void drop(pieces *p) noexcept nogil


cdef class Versions:
    # constant after construction
    cdef Os os                      # outlives the runs
    cdef uint32_t max_records

    # guarded by mutex; what adds records holds the log's append lock, too
    cdef pthread_mutex_t mutex
    cdef cdp_tree *tree             # of the log's current segment
    cdef cdp_tree *sealing_tree     # of the one set aside, until its run is installed
    cdef cdp_snapshot *snapshot
    cdef readonly uint64_t floor            # versions up to here are the base's by now; the snapshot's
    cdef readonly uint64_t visible_seq      # the last record that is visible; Log numbers and dates records
    cdef readonly uint64_t visible_ts_ns
    cdef uint64_t generation        # how often trees or runs were exchanged

    cdef bint has_room(self, uint32_t n_changes) noexcept nogil
    # A record becomes visible, whole.
    cdef void add(self, uint64_t seq, uint64_t ts_ns, const change *changes, uint32_t n) noexcept nogil
    # What is visible in [start, end) at `view` (NULL: now), all of one moment. Where it succeeds, drop(p) when the data
    # is read.
    # most: ALL; or trees and runs are each asked for so many answers, and what is found, FEW pieces at most, ends at
    # p.end: behind start, but perhaps before `end`. A caller that looks for the first change needs no more.
    cdef int resolve(self, const cdp_view *view, uint64_t start, uint64_t end, uint64_t most, pieces *p,
                     cdp_status *st) noexcept nogil
    # The same for before-images: what [start, end) held at `view`; CDP_LOC_BASE: the disk's. What the disk has of it
    # may be read afterwards, and is right if untouched() says so then.
    cdef int resolve_before(self, const cdp_view *view, uint64_t start, uint64_t end, uint64_t most, pieces *p,
                            moment *m, cdp_status *st) noexcept nogil
    # Which record after `after` changed each sector last (as loc; 0: none); of segments that have no run yet.
    cdef int resolve_seqs(self, uint64_t after, uint64_t start, uint64_t end, uint64_t most, pieces *p, moment *m,
                          cdp_status *st) noexcept nogil
    # Which records lo < seq <= hi gave [start, end) a version: as cdp_history_of_runs() of index.h, from trees and runs
    # of one moment. more[0]: there are others after the last of them.
    cdef int history(self, const cdp_view *line, uint64_t start, uint64_t end, uint64_t lo, uint64_t hi,
                     cdp_history_row *rows, uint64_t cap, uint64_t *n, bint *more, cdp_status *st) noexcept nogil
    # Nothing changed [start, end) since the moment. (False where that is not known.)
    cdef bint untouched(self, const moment *m, uint64_t start, uint64_t end) noexcept nogil
    cdef void note(self, moment *m) noexcept nogil      # now
    cdef uint32_t trees_of(self, cdp_tree **trees) noexcept nogil   # mutex held; newest first
    # The current segment was set aside for sealing: its tree becomes sealing_tree. 0 or ENOMEM.
    cdef int swap_trees(self) noexcept nogil
    # The next snapshot; NULL keeps the lineage, or the runs. 0 or ENOMEM.
    cdef int install(self, const cdp_view *view, cdp_run_ref **runs, uint32_t n_runs,
                     bint drop_sealing_tree) noexcept nogil
    cdef cdp_snapshot *reference(self) noexcept nogil

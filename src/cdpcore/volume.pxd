"""The core of one volume: where a write goes.

    VolumeCore.write -> Log.append (frame in a pool slot) -> extent tree -> visible -> (acknowledged)

Lock order: Log's append lock, then `index_mutex`, then Log's io lock. A reader takes index_mutex for the extent trees
only; runs are searched and data is read with no lock held.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from cdpcore.errors cimport cdp_status
from cdpcore.index cimport cdp_piece, cdp_run, cdp_tree, cdp_view
from cdpcore.log cimport Log, pthread_mutex_t
from cdpcore.osapi cimport Os, cdp_os
from cdpcore.segfiles cimport SegmentFds
from cdpcore.view cimport View


cdef extern from "gate.h" nogil:
    ctypedef struct cdp_gate:
        pass
    int cdp_gate_enter(cdp_gate *g)
    void cdp_gate_leave(cdp_gate *g)
    int cdp_gate_is_closed(cdp_gate *g)
    void cdp_gate_close(cdp_gate *g)

cdef extern from "snapshot.h" nogil:
    ctypedef struct cdp_run_ref:
        cdp_run *run
        uint64_t id
    ctypedef struct cdp_snapshot:
        uint32_t n_runs
        cdp_view view
        cdp_run *runs[64]
        cdp_run_ref *run_refs[64]
    cdp_run_ref *cdp_run_ref_new(cdp_run *run, uint64_t id)
    cdp_run_ref *cdp_run_ref_keep(cdp_run_ref *r)
    void cdp_run_ref_drop(cdp_run_ref *r)
    cdp_snapshot *cdp_snapshot_new(const cdp_view *view, cdp_run_ref *const *runs, uint32_t n_runs)
    cdp_snapshot *cdp_snapshot_ref(cdp_snapshot *s)
    void cdp_snapshot_unref(cdp_snapshot *s)

cdef extern from "target.h" nogil:
    enum:
        CDP_FUA
        CDP_HOLE
        CDP_EXTENT_DATA
        CDP_EXTENT_ZERO
        CDP_EXTENT_HOLE
    ctypedef struct cdp_extent:
        uint64_t offset
        uint64_t length
        uint32_t kind


# What resolve() found: pieces in a small array, or in a grown one.
cdef struct pieces:
    cdp_piece *at
    uint64_t n
    cdp_piece *heap
    cdp_piece few[64]


cdef class VolumeCore:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef readonly Log log
    cdef SegmentFds segments
    cdef readonly uint64_t size_bytes
    cdef uint32_t max_records       # a segment takes
    cdef uint64_t part_bytes        # a long write is kept in descriptors of this much data
    cdef readonly uint64_t max_request_bytes    # a longer one becomes several records
    cdef VolumeCore parent          # of a writable image: the base is parent at parent_view
    cdef View parent_view
    cdef int base_fd                # -1: none, the base is all holes
    cdef object parent_pin          # keeps whatever owns the parent alive

    # atomic
    cdef cdp_gate gate

    # append lock
    cdef uint64_t unflushed_seq     # last record that a flush record does not follow yet

    # index lock (writers of these also hold the append lock)
    cdef pthread_mutex_t index_mutex
    cdef cdp_tree *tree             # of the log's current segment
    cdef cdp_tree *sealing_tree     # of the one set aside, until its run is installed
    cdef cdp_snapshot *snapshot     # lineage and runs
    cdef readonly uint64_t last_seq
    cdef readonly uint64_t last_ts_ns

    # counters; atomic adds would cost more than they tell: each is guarded by the append lock
    cdef uint64_t n_writes, n_zeroes, n_flushes, bytes_written

    # --- requests: any thread, no GIL. Offsets and lengths in bytes, inside the volume.
    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int flush(self, cdp_status *st) noexcept nogil
    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil

    # --- internal
    cdef int check_range(self, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int begin_record(self, uint64_t data_bytes, uint32_t n_desc, uint64_t *seq, uint64_t *ts_ns, cdp_status *st) noexcept nogil
    cdef int write_sectors(self, const uint8_t *buf, uint64_t start, uint64_t sectors, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int write_bytes(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int append_data(self, const uint8_t *buf, uint64_t start, uint64_t sectors, const uint32_t *crc, uint32_t flags,
                         uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int zero_bytes(self, uint64_t off, uint64_t n, uint16_t kind, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int read_inside(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int resolve(self, const cdp_view *view, uint64_t start, uint64_t end, pieces *p, cdp_status *st) noexcept nogil
    cdef int read_data(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, cdp_status *st) noexcept nogil
    cdef int read_base(self, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef void swap_trees(self) noexcept nogil
    cdef int install(self, const cdp_view *view, cdp_run_ref **runs, uint32_t n_runs, bint drop_sealing_tree) noexcept nogil
    cdef uint64_t append_meta(self, uint16_t kind, uint64_t start, uint64_t sectors, const uint8_t *data, uint32_t n,
                              cdp_status *st) noexcept nogil

"""The index: which version of a sector is visible at a seq (index/index.h)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from cdpcore.base.format cimport cdp_run_header, cdp_run_version
from cdpcore.base.status cimport cdp_status
from cdpcore.system.os_table cimport cdp_os


cdef extern from "index/index.h" nogil:
    const uint32_t CDP_MAX_RUNS
    const uint32_t CDP_MAX_TREES

    ctypedef struct cdp_interval:
        uint64_t lo
        uint64_t hi

    ctypedef struct cdp_view_piece:
        uint64_t start
        uint64_t end
        uint32_t first
        uint32_t count
        uint32_t first_freed
        uint32_t n_freed

    ctypedef struct cdp_view:
        uint32_t n_pieces
        uint32_t n_intervals
        const cdp_view_piece *pieces
        const cdp_interval *intervals
        uint32_t n_freed
        const cdp_interval *freed

    ctypedef struct cdp_hit:
        int found
        uint64_t until
        uint64_t seq
        uint64_t loc

    ctypedef struct cdp_tree:
        pass
    ctypedef struct cdp_tree_iter:
        const cdp_tree *tree
        uint32_t leaf
        uint32_t slot
    cdp_tree *cdp_tree_new(uint32_t max_records)
    void cdp_tree_free(cdp_tree *t)
    bint cdp_tree_has_room(const cdp_tree *t, uint32_t n)
    void cdp_tree_insert(cdp_tree *t, uint64_t seq, uint64_t start, uint64_t end, uint64_t loc)
    void cdp_tree_find(const cdp_tree *t, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit)
    uint64_t cdp_tree_bytes(const cdp_tree *t)
    void cdp_tree_iter_init(cdp_tree_iter *it, const cdp_tree *t)
    int cdp_tree_iter_next(cdp_tree_iter *it, uint64_t *start, uint64_t *end, const cdp_run_version **versions,
                           uint64_t *n)

    ctypedef struct cdp_run:
        pass
    ctypedef struct cdp_run_meta:
        uint8_t uuid[16]
        uint64_t first_seq
        uint64_t last_seq
        uint32_t first_segment
        uint32_t last_segment
    int cdp_run_open(const cdp_os *os, const char *path, const uint8_t *uuid, cdp_run **out, cdp_status *st)
    void cdp_run_close(cdp_run *r)
    const cdp_run_header *cdp_run_header_of(const cdp_run *r)
    int cdp_run_find(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                     cdp_status *st)
    int cdp_run_verify(const cdp_run *r, cdp_status *st)
    int cdp_run_write_tree(const cdp_os *os, const char *path, const cdp_run_meta *meta, const cdp_tree *t,
                           cdp_status *st)
    int cdp_run_merge(const cdp_os *os, const char *path, const cdp_run_meta *meta, cdp_run *const *runs, uint32_t n,
                      const cdp_interval *dropped, uint32_t n_dropped, cdp_status *st)

    ctypedef struct cdp_piece:
        uint64_t start
        uint64_t end
        uint64_t loc
    int64_t cdp_lookup(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                       uint32_t n_runs, uint64_t start, uint64_t end, cdp_piece *out, uint64_t cap, uint64_t *steps,
                       uint64_t *reached, cdp_status *st)
    int64_t cdp_lookup_runs(const cdp_view *view, cdp_run *const *runs, uint32_t n_runs, uint64_t floor,
                            const cdp_piece *pieces, uint64_t n_in, cdp_piece *out, uint64_t cap, uint64_t *steps,
                            uint64_t *reached, cdp_status *st)
    int64_t cdp_lookup_before(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                              uint32_t n_runs, const cdp_piece *pieces, uint64_t n_in, cdp_piece *out, uint64_t cap,
                              uint64_t *steps, uint64_t *reached, cdp_status *st)
    int64_t cdp_lookup_seqs(cdp_tree *const *trees, uint32_t n_trees, uint64_t after, uint64_t start, uint64_t end,
                            cdp_piece *out, uint64_t cap, uint64_t *steps, uint64_t *reached, cdp_status *st)

    int cdp_view_changes(const cdp_view *a, const cdp_view *b, cdp_view *out)
    ctypedef struct cdp_history_row:
        uint64_t seq
        uint64_t start
        uint64_t end
        uint64_t sectors
        uint32_t on_line
        uint32_t zero
    int cdp_history_of_trees(const cdp_view *line, cdp_tree *const *trees, uint32_t n_trees, uint64_t start,
                             uint64_t end, uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n)
    int cdp_history_of_runs(const cdp_view *line, cdp_run *const *runs, uint32_t n_runs, uint64_t start, uint64_t end,
                            uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n, cdp_status *st)

"""The lineage and the runs as they were together at one moment, counted (index/snapshot.h)."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.index.index cimport cdp_run, cdp_view


cdef extern from "index/snapshot.h" nogil:
    ctypedef struct cdp_run_ref:
        cdp_run *run
        uint64_t id
    ctypedef struct cdp_snapshot:
        uint32_t n_runs
        uint64_t floor
        cdp_view view
        cdp_run *runs[64]
        cdp_run_ref *run_refs[64]
    cdp_run_ref *cdp_run_ref_new(cdp_run *run, uint64_t id)
    cdp_run_ref *cdp_run_ref_keep(cdp_run_ref *r)
    void cdp_run_ref_drop(cdp_run_ref *r)
    cdp_snapshot *cdp_snapshot_new(const cdp_view *view, cdp_run_ref *const *runs, uint32_t n_runs, uint64_t floor)
    cdp_snapshot *cdp_snapshot_ref(cdp_snapshot *s)
    void cdp_snapshot_unref(cdp_snapshot *s)
    void cdp_snapshot_succeed(cdp_snapshot *s, cdp_snapshot *next)
    int cdp_snapshot_is_oldest(const cdp_snapshot *s)

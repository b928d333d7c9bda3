"""The runs of a volume: written when a segment is sealed, merged, and installed in its index while reads go on.

Threading: one maintenance thread a volume calls these. A run that is replaced lives as long as a snapshot has it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport cdp_run_header
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.index.index cimport (cdp_interval, cdp_run, cdp_run_header_of, cdp_run_merge, cdp_run_meta, cdp_run_open,
                                  cdp_run_write_tree)
from cdpcore.index.snapshot cimport (cdp_run_ref, cdp_run_ref_drop, cdp_run_ref_keep, cdp_run_ref_new, cdp_snapshot,
                                     cdp_snapshot_unref)
from cdpcore.index.versions cimport Versions
from cdpcore.base.errors import InvalidRequest, OutOfSpace

cdef void fill_meta(cdp_run_meta *m, bytes uuid, uint32_t first_segment, uint32_t last_segment, uint64_t first_seq,
                    uint64_t last_seq):
    memcpy(m.uuid, <const uint8_t *><char *>uuid, 16)
    m.first_segment = first_segment
    m.last_segment = last_segment
    m.first_seq = first_seq
    m.last_seq = last_seq


def write_sealing_run(Versions versions not None, path: str, bytes uuid, uint32_t segment, uint64_t first_seq,
                      uint64_t last_seq):
    """Write the run of the segment that is being sealed, from its tree."""
    cdef cdp_run_meta meta
    cdef cdp_status st
    cdef bytes p = path.encode()
    cdef const char *c_path = p
    cdef int rc
    fill_meta(&meta, uuid, segment, segment, first_seq, last_seq)
    with nogil:     # the sealing tree no longer changes, and only this thread ends it
        rc = cdp_run_write_tree(versions.os.table, c_path, &meta, versions.sealing_tree, &st)
    check(rc, &st, path)


def install_runs(Versions versions not None, list paths not None, list ids not None, bytes uuid, list keep_ids not None,
                 bint drop_sealing_tree):
    """Make the index consist of the runs `ids` (newest first): those in keep_ids stay as they are, the others are
    opened from `paths`. With drop_sealing_tree the newest run replaces that tree, in the same instant."""
    cdef cdp_run_ref *refs[64]
    cdef cdp_snapshot *snap
    cdef cdp_run *run
    cdef cdp_status st
    cdef bytes p
    cdef const char *c_path
    cdef const uint8_t *id_bytes = <const uint8_t *><char *>uuid
    cdef uint32_t n = 0, i
    cdef int rc = CDP_OK
    cdef bint out_of_memory = False
    if len(ids) > 64 or len(ids) != len(paths):
        raise OutOfSpace(f"an index of {len(ids)} runs; 64 is the most", "run 'cdp check --rebuild'")
    with nogil:     # a restore may replace the current snapshot at any time: hold the one that is looked at
        snap = versions.reference()
    try:
        for path, run_id in zip(paths, ids):
            refs[n] = NULL
            if run_id in keep_ids:
                for i in range(snap.n_runs):
                    if snap.run_refs[i].id == <uint64_t>run_id:
                        refs[n] = cdp_run_ref_keep(snap.run_refs[i])
            if refs[n] == NULL:
                p = path.encode()
                c_path = p
                with nogil:
                    rc = cdp_run_open(versions.os.table, c_path, id_bytes, &run, &st)
                check(rc, &st, path)
                refs[n] = cdp_run_ref_new(run, run_id)
                if refs[n] == NULL:
                    raise MemoryError()
            n += 1
        with nogil:
            out_of_memory = versions.install(NULL, refs, n, drop_sealing_tree) != CDP_OK
        if out_of_memory:
            raise MemoryError()
    finally:
        for i in range(n):
            cdp_run_ref_drop(refs[i])
        cdp_snapshot_unref(snap)


def merge_runs(Versions versions not None, list run_ids not None, path: str, bytes uuid, list dropped not None):
    """Merge installed runs (given newest first, neighbours) into a new file; `dropped`: (lo, hi) seqs to leave out.
    Returns (first_segment, last_segment, first_seq, last_seq)."""
    cdef cdp_run *runs[64]
    cdef cdp_interval *gaps = NULL
    cdef cdp_run_meta meta
    cdef cdp_status st
    cdef cdp_snapshot *snap
    cdef const cdp_run_header *h
    cdef bytes p = path.encode()
    cdef const char *c_path = p
    cdef uint32_t n = 0, n_gaps = len(dropped), i
    cdef int rc
    with nogil:
        snap = versions.reference()
    try:
        for i in range(snap.n_runs - 1, -1, -1):    # oldest first
            if snap.run_refs[i].id in run_ids:
                runs[n] = snap.runs[i]
                n += 1
        if n != len(run_ids) or n == 0:
            raise InvalidRequest("a run to merge is not installed")
        h = cdp_run_header_of(runs[0])
        fill_meta(&meta, uuid, h.first_segment, cdp_run_header_of(runs[n - 1]).last_segment, h.first_seq,
                  cdp_run_header_of(runs[n - 1]).last_seq)
        gaps = <cdp_interval *>malloc((n_gaps + 1) * sizeof(cdp_interval))
        if gaps == NULL:
            raise MemoryError()
        for i in range(n_gaps):
            gaps[i].lo, gaps[i].hi = dropped[i]
        with nogil:
            rc = cdp_run_merge(versions.os.table, c_path, &meta, runs, n, gaps, n_gaps, &st)
        check(rc, &st, path)
        return meta.first_segment, meta.last_segment, meta.first_seq, meta.last_seq
    finally:
        free(gaps)
        cdp_snapshot_unref(snap)

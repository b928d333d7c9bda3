"""The history of a range of a volume, from its index: which records changed it.

Threading: any thread; the GIL is released. Memory: 80 bytes for each row that may be returned.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.gate cimport cdp_gate_leave
from cdpcore.base.status cimport cdp_status
from cdpcore.index.index cimport cdp_history_row
from cdpcore.index.view cimport View
from cdpcore.volume.core cimport VolumeCore

cdef uint64_t MOST = 1 << 20


def history(VolumeCore core not None, View line not None, uint64_t offset, uint64_t length, uint64_t after,
            uint64_t upto, uint64_t most):
    """(rows, more): the first `most` (up to 2^20) records after < seq <= upto that changed a sector of the range, in
    order. A row is seq, offset, end, bytes in 8 bytes each and on_line, zero in 4 each: what of the range, widened to
    whole sectors, the record changed, from the first sector to the last, and how much in all; on_line: 1 where `line`
    has it. `more`: whether there are others after them."""
    cdef cdp_status st
    cdef uint64_t n = 0, i
    cdef bint more = False
    cdef cdp_history_row *rows
    cdef int rc
    most = min(max(most, 1u), MOST)
    check(core.enter(offset, length, &st), &st, None)
    try:
        if length == 0:
            return b"", False
        rows = <cdp_history_row *>malloc(2 * most * sizeof(cdp_history_row))
        if rows == NULL:
            raise MemoryError()
        try:
            with nogil:
                rc = core.versions.history(&line.v, offset // CDP_SECTOR,
                                           (offset + length + CDP_SECTOR - 1) // CDP_SECTOR, after, upto, rows, most,
                                           &n, &more, &st)
                for i in range(n):
                    rows[i].start *= CDP_SECTOR
                    rows[i].end *= CDP_SECTOR
                    rows[i].sectors *= CDP_SECTOR
            check(rc, &st, None)
            return (<const char *>rows)[:n * sizeof(cdp_history_row)], bool(more)
        finally:
            free(rows)
    finally:
        cdp_gate_leave(&core.gate)

"""Putting a restore on the disk, piece by piece: the volume shows it already, from its log."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.index.versions cimport pieces
from cdpcore.inplace.before_images cimport BeforeImages
from cdpcore.inplace.spans cimport span
from cdpcore.volume.core cimport VolumeCore


cdef class RestoreWriter:
    # constant after construction
    cdef VolumeCore core
    cdef BeforeImages images

    # Sectors [*at, end), or fewer; *at: up to where; *n: bytes put on the disk are added.
    cdef int write_range(self, uint64_t *at, uint64_t end, uint32_t max_records, uint64_t *n,
                         cdp_status *st) noexcept nogil
    # Neighbours that are not on the disk, from piece *i on, as one record; *i: behind them.
    cdef int write_pieces(self, const pieces *p, uint64_t *i, uint64_t generation, uint64_t *n,
                          cdp_status *st) noexcept nogil
    cdef int overwrite_held(self, const span *s, uint32_t n, uint64_t generation, cdp_status *st) noexcept nogil

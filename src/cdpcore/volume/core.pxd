"""The core of one volume: every request enters and leaves here, whatever the volume's kind (content.pxd) makes of it.

Lock order: Log's append lock, then Versions' mutex, then Log's io lock.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.gate cimport cdp_gate
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport Versions
from cdpcore.log.log cimport Log
from cdpcore.log.record cimport room
from cdpcore.volume.admission cimport Admission
from cdpcore.volume.content cimport Content


cdef class VolumeCore:
    # constant after construction
    cdef Content content            # what its kind does
    cdef readonly Log log
    cdef readonly Versions versions # which version of a sector is visible
    cdef readonly uint64_t size_bytes
    cdef readonly Admission admission       # of writes, where the history has a limit

    # atomic
    cdef cdp_gate gate              # counts the calls inside

    # append lock
    cdef uint64_t n_flushes

    # atomic
    cdef uint64_t n_map_steps, n_map_seeks      # what block status looked up in the index, and in files

    # --- requests: any thread, no GIL; offsets and lengths in bytes, checked here; *seq: as pwrite_seq() of target.h.
    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                   cdp_status *st) noexcept nogil
    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    # Everything acknowledged before is durable at return. Nothing new behind the last flush: no record.
    cdef int flush(self, cdp_status *st) noexcept nogil
    # As in cdp_target.
    cdef uint64_t written_seq(self) noexcept nogil
    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil
    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil
    # view NULL: now. Of one moment up to 32 MiB.
    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil
    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil

    # --- counted by the gate until cdp_gate_leave(); or not let in: closed, or the range is not inside the volume
    cdef int enter(self, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil

    # --- internal
    cdef void done(self, uint32_t stage, uint64_t began, uint64_t n) noexcept nogil
    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil
    # Append lock held: one record that changes no content, visible at return. `data`: n bytes, a multiple of 512.
    cdef int append_held(self, uint16_t kind, uint64_t start, uint64_t sectors, const uint8_t *data, uint32_t n,
                         room space, uint64_t *seq, cdp_status *st) noexcept nogil

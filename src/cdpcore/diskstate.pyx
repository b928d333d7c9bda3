"""Up to which record a protected disk holds everything, durably: VOLUME/disk.state (docs/format.md).

Recovery puts back what the records after that one overwrote. Two copies in turn, each with its own checksum, so that a cut
in the middle of one leaves the other: an older answer, which only means that more is put back.

Threading: one user at a time.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from cdpcore.errors cimport CDP_OK, cdp_fail_os, check
from cdpcore.index cimport cdp_crc32c
from cdpcore.osapi cimport CDP_OPEN_CREATE, CDP_OPEN_RDWR
from cdpcore.errors import Corruption

cdef extern from "format.h" nogil:
    enum:
        CDP_BLOCK
        CDP_FORMAT_VERSION
    const uint64_t CDP_DISK_MAGIC
    struct cdp_disk_state:
        uint64_t magic
        uint32_t version
        uint32_t crc
        uint8_t volume_uuid[16]
        uint64_t generation
        uint64_t applied_seq


cdef class DiskState:
    """The file at `path` of the volume `uuid` (16 bytes); `create` makes it, saying 0. Raises NotFound, Corruption where neither copy
    is valid."""

    def __cinit__(self, Os os not None, path: str, bytes uuid, bint create=False):
        cdef cdp_status st
        cdef cdp_disk_state s
        cdef uint32_t crc, i, found = 0
        cdef int64_t rc
        self.fd = -1
        self.os = os
        self.table = os.table
        memcpy(self.uuid, <const uint8_t *><char *>uuid, 16)
        self.fd = self.table.open(self.table.ctx, path.encode(), CDP_OPEN_RDWR | (CDP_OPEN_CREATE if create else 0))
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening the state of the disk"), &st, path)
        if create:
            check(self.put(0, &st), &st, path)
            return
        for i in range(2):
            rc = self.table.pread(self.table.ctx, self.fd, &s, sizeof(s), i * CDP_BLOCK)
            if rc < 0:
                check(cdp_fail_os(&st, rc, i * CDP_BLOCK, b"reading the state of the disk"), &st, path)
            crc = s.crc
            s.crc = 0
            if rc == sizeof(s) and s.magic == CDP_DISK_MAGIC and s.version == CDP_FORMAT_VERSION and \
                    crc == cdp_crc32c(0, &s, sizeof(s)) and memcmp(s.volume_uuid, self.uuid, 16) == 0 and \
                    s.generation > self.generation:
                self.generation = s.generation
                self.applied_seq = s.applied_seq
                found += 1
        if not found:
            raise Corruption(f"{path}: no valid copy of the state of the disk", "put it back from a copy, or 'cdp adopt' the disk anew")
        # A process that was killed, or a sync that failed, may have left this copy in memory only, and what is built on it must not outlast
        # it. Written again, since a sync alone may take a page that failed for clean; to its own place, since the other one is durable.
        self.generation -= 1
        check(self.put(self.applied_seq, &st), &st, path)

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        """Idempotent."""
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
            self.fd = -1

    cdef int put(self, uint64_t applied_seq, cdp_status *st) noexcept nogil:
        cdef cdp_disk_state s
        cdef int64_t rc
        memset(&s, 0, sizeof(s))
        s.magic = CDP_DISK_MAGIC
        s.version = CDP_FORMAT_VERSION
        memcpy(s.volume_uuid, self.uuid, 16)
        s.generation = self.generation + 1
        s.applied_seq = applied_seq
        s.crc = cdp_crc32c(0, &s, sizeof(s))
        rc = self.table.pwrite(self.table.ctx, self.fd, &s, sizeof(s), s.generation % 2 * CDP_BLOCK)
        if rc >= 0:
            rc = self.table.datasync(self.table.ctx, self.fd)
        if rc < 0:
            return cdp_fail_os(st, rc, 0, b"noting the state of the disk")
        self.generation += 1
        self.applied_seq = applied_seq
        return CDP_OK

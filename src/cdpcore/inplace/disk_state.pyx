"""Up to which record a protected disk holds everything, durably: VOLUME/disk.state (docs/format.md).

Recovery puts back what the records after that one overwrote. Two copies in turn, each with its own checksum, so that a
cut while one is written leaves the other: an older answer, which only means that more is put back. A copy lies inside a
sector, which a device writes whole or not at all; so one that fails was damaged later, and may have been the newer one.

It also says the latest time at which the disk's file was changed. Where the log ends with the record that it names, no
cdp process has written to the disk since, and a later time is somebody else's write. The latest, not the last one: no
sync makes a file's time durable, so a power cut may bring back any that it had, also one of before the clock was set
back. The file itself shows only the last one; wrote() keeps the others.

Threading: one user at a time.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_DISK_MAGIC, CDP_FORMAT_VERSION, cdp_disk_state
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.system.os_table cimport CDP_OPEN_CREATE, CDP_OPEN_RDONLY, CDP_OPEN_RDWR
from cdpcore.base.errors import Corruption


cdef class DiskState:
    """The file at `path` of the volume `uuid` (16 bytes); `create` makes it, saying 0; `read_only`: nothing is written,
    and put() must not be called. Raises NotFound, Corruption where neither copy is valid."""

    def __cinit__(self, Os os not None, path: str, bytes uuid, bint create=False, bint read_only=False):
        cdef cdp_status st
        self.fd = self.disk_fd = -1
        self.os = os
        self.table = os.table
        self.path = path
        self.damaged = ()
        memcpy(self.uuid, <const uint8_t *><char *>uuid, 16)
        self.fd = self.table.open(self.table.ctx, path.encode(), (CDP_OPEN_RDONLY if read_only else CDP_OPEN_RDWR) |
                                  (CDP_OPEN_CREATE if create else 0))
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening the state of the disk"), &st, path)
        if create:
            check(self.put(0, &st), &st, path)
            return
        self.find()
        if read_only:
            return
        # A process that was killed, or a sync that failed, may have left this copy in memory only, and what is built on
        # it must not outlast it. Written again, since a sync alone may take a page that failed for clean; to its own
        # place, since the other one is durable.
        self.generation -= 1
        check(self.put(self.applied_seq, &st), &st, path)

    cdef find(self):
        """The newer of the two copies. Only one that was never written may be missing."""
        cdef cdp_status st
        cdef cdp_disk_state s
        cdef uint32_t crc, i
        cdef int64_t rc
        cdef list failed = [], empty = []
        for i in range(2):
            memset(&s, 0, sizeof(s))
            rc = self.table.pread(self.table.ctx, self.fd, &s, sizeof(s), i * CDP_BLOCK)
            if rc < 0:
                check(cdp_fail_os(&st, rc, i * CDP_BLOCK, b"reading the state of the disk"), &st, self.path)
            if cdp_is_zero(&s, sizeof(s)):
                empty.append(i * CDP_BLOCK)
                continue
            crc = s.crc
            s.crc = 0
            if s.magic != CDP_DISK_MAGIC or s.version != CDP_FORMAT_VERSION or crc != cdp_crc32c(0, &s, sizeof(s)) or \
                    memcmp(s.volume_uuid, self.uuid, 16) != 0 or s.generation % 2 != i:
                failed.append(i * CDP_BLOCK)
            elif s.generation > self.generation:
                self.generation = s.generation
                self.applied_seq = s.applied_seq
                self.changed_ns = s.changed_ns
        if not self.generation:
            raise Corruption(f"{self.path}: no valid copy of the state of the disk",
                             "put it back from a copy, or 'cdp adopt' the disk anew")
        self.damaged = tuple(failed + (empty if self.generation > 1 else []))

    def watch(self, File disk not None):
        """From now on each put() says when `disk` was changed last; it stays open as long as this."""
        self.disk = disk
        self.disk_fd = disk.fd
        self.latest_ns = self.table.changed_ns(self.table.ctx, self.disk_fd)

    def name(self, uint64_t applied_seq):
        """The disk is taken to hold everything up to that record. Durable at return. Raises what the OS says."""
        cdef cdp_status st
        check(self.put(applied_seq, &st), &st, self.path)

    def note(self):
        """No cdp process writes to the disk now: say when it was changed last. Durable at return. Raises what the OS
        says."""
        cdef cdp_status st
        if self.latest() > self.changed_ns:
            check(self.put(self.applied_seq, &st), &st, self.path)

    def holds(self, uint64_t applied_seq):
        """The disk was made, by others than a volume's engine, to hold everything up to that record, durably. Durable
        at return."""
        cdef cdp_status st
        check(self.put(applied_seq, &st), &st, self.path)

    def undid(self):
        """wrote(), for recovery."""
        self.wrote()

    cdef void wrote(self) noexcept nogil:
        """The disk was written to. Reads the clock (25 ns), and the file's time where that went back: the writes before
        the step have times of up to what the clock showed after the last of them, or the time that the file has."""
        cdef uint64_t now_ns = self.table.now_ns(self.table.ctx)
        if now_ns < self.clock_ns:
            self.latest_ns = max(self.latest(), self.clock_ns)
        self.clock_ns = now_ns

    cdef uint64_t latest(self) noexcept nogil:
        cdef uint64_t ns = (<const volatile uint64_t *>&self.latest_ns)[0]
        return ns if self.disk_fd < 0 else max(ns, self.table.changed_ns(self.table.ctx, self.disk_fd))

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
        s.changed_ns = max(self.changed_ns, self.latest())
        s.crc = cdp_crc32c(0, &s, sizeof(s))
        rc = self.table.pwrite(self.table.ctx, self.fd, &s, sizeof(s), s.generation % 2 * CDP_BLOCK)
        if rc >= 0:
            rc = self.table.datasync(self.table.ctx, self.fd)
        if rc < 0:
            return cdp_fail_os(st, rc, 0, b"noting the state of the disk")
        self.generation += 1
        self.applied_seq = applied_seq
        self.changed_ns = s.changed_ns
        return CDP_OK

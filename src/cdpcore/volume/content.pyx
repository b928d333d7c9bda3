"""What a kind of volume does with a request: the seam between a volume's core and its kind.

The bodies here are what a kind does where it says nothing else: a volume whose content is in its log.

Threading: see the .pxd.
"""
cimport cython
from libc.errno cimport ENOSYS
from cdpcore.base.format cimport CDP_BLOCK, CDP_SECTOR
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail
from cdpcore.log.frame cimport CDP_FRAME_TAIL_BYTES
from cdpcore.log.record cimport MAX_PARTS

cdef uint64_t MIB = 1 << 20
cdef uint64_t MAX_REQUEST = 32 << 20


@cython.no_gc_clear   # what the kinds give back in __dealloc__ goes through `os`
cdef class Content:
    """Args of every kind: log, at the end of what recovery found; segments: read handles of its
    files; size_bytes: of the volume, a multiple of 512."""

    def __cinit__(self, Log log not None, SegmentFds segments not None, *, uint64_t size_bytes,
                  **_of_kind):
        if type(self) is Content:
            raise TypeError("Content is abstract: AfterImages and BeforeImages are the kinds")
        self.os = log.os
        self.table = log.table
        self.log = log
        self.segments = segments
        self.damage = Damage()
        self.log_data = LogReader(log, segments, self.damage)
        self.versions = log.versions
        self.stages = log.stages.s
        self.size_bytes = size_bytes
        # Three parts of 1 MiB to a slot of 4 MiB; at least two to a smaller one, so that little of it is left empty.
        cdef uint64_t usable = log.ring.slot_bytes - 2 * CDP_BLOCK - CDP_FRAME_TAIL_BYTES
        self.part_bytes = max(<uint64_t>CDP_BLOCK, min(usable // 2 // CDP_BLOCK * CDP_BLOCK, MIB))
        self.max_request_bytes = min(MAX_REQUEST, min(MAX_PARTS * self.part_bytes,
                                                      log.files.segment_bytes // 8 // CDP_SECTOR * CDP_SECTOR))

    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil:
        return cdp_fail(st, CDP_UNAVAILABLE, ENOSYS, off, b"a kind of volume without change()")

    cdef int zero_size(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *size, cdp_status *st) noexcept nogil:
        size[0] = n
        return CDP_OK

    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        return self.log.wait_durable(seq, st)

    cdef uint64_t written_seq(self) noexcept nogil:
        return self.log.written()

    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        return self.log.write_out(beyond, st)

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        pass

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        return cdp_fail(st, CDP_UNAVAILABLE, ENOSYS, off, b"a kind of volume without read()")

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil:
        return cdp_fail(st, CDP_UNAVAILABLE, ENOSYS, off, b"a kind of volume without map()")

    cpdef release(self):
        """Let go of files and mappings; nobody is inside, and nobody comes any more. Idempotent."""
        self.versions.release()
        self.segments.close()
        self.log.ring.release()

    def stats(self) -> dict:
        """Counters since opening, and the memory of the extent trees in bytes."""
        return {"writes": self.n_writes, "zeroes": self.n_zeroes, "bytes_written": self.bytes_written,
                "tree_bytes": self.versions.tree_bytes(), **self.log.stats(), **self.damage.stats()}

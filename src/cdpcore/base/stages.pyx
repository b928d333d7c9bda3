"""Where the time of a volume's requests goes: the counts of base/stages.h, their life, and what they are for Python.

Threading: any thread.
"""
from libc.stdlib cimport calloc, free
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.histogram cimport describe

# As enum cdp_stage and enum cdp_source have them.
REQUEST_NAMES = ("read", "write", "flush")
STAGE_NAMES = ("receive", "parked", "reply", "append", "publish", "log_write", "log_sync", "commit", "look_up",
               "file_read", "old_read", "disk_write", "disk_sync")
SOURCE_NAMES = ("memory", "cache", "device", "base")
SAMPLE = CDP_STAGE_SAMPLE


cdef class Stages:
    """The counts of one volume, all 0 at first."""

    def __cinit__(self):
        assert len(REQUEST_NAMES) == CDP_REQUEST_KINDS and len(REQUEST_NAMES + STAGE_NAMES) == CDP_STAGES
        assert len(SOURCE_NAMES) == CDP_SOURCES
        self.s = <cdp_stages *>calloc(1, sizeof(cdp_stages))
        if self.s == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.s)

    def describe(self, bint buckets=False) -> dict:
        """A copy; not all of one moment. at_ns: of the monotonic clock; requests and stages: a histogram by name
        (Histogram.describe); request_bytes: read, written; sources: of reads, count and bytes by name; parked."""
        cdef cdp_stages *s = self.s
        cdef int i
        return {"at_ns": cdp_monotonic_ns(),
                "requests": {name: describe(&s.stage[i], buckets) for i, name in enumerate(REQUEST_NAMES)},
                "stages": {name: describe(&s.stage[i], buckets)
                           for i, name in enumerate(STAGE_NAMES, CDP_REQUEST_KINDS)},
                "request_bytes": {"read": s.read_bytes, "written": s.written_bytes},
                "sources": {name: {"count": s.source[i].count, "bytes": s.source[i].bytes}
                            for i, name in enumerate(SOURCE_NAMES)},
                "parked": s.parked}

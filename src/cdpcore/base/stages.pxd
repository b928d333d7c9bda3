"""Where the time of a volume's requests goes (base/stages.h)."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.histogram cimport cdp_histogram, cdp_histogram_add


cdef extern from "base/stages.h" nogil:
    enum:
        CDP_STAGE_READ
        CDP_STAGE_WRITE
        CDP_STAGE_FLUSH
        CDP_REQUEST_KINDS
        CDP_STAGE_RECEIVE
        CDP_STAGE_PARKED
        CDP_STAGE_REPLY
        CDP_STAGE_APPEND
        CDP_STAGE_PUBLISH
        CDP_STAGE_LOG_WRITE
        CDP_STAGE_LOG_SYNC
        CDP_STAGE_COMMIT
        CDP_STAGE_LOOK_UP
        CDP_STAGE_FILE_READ
        CDP_STAGE_OLD_READ
        CDP_STAGE_DISK_WRITE
        CDP_STAGE_DISK_SYNC
        CDP_STAGES
        CDP_FROM_MEMORY
        CDP_FROM_CACHE
        CDP_FROM_DEVICE
        CDP_FROM_BASE
        CDP_SOURCES
        CDP_STAGE_SAMPLE

    ctypedef struct cdp_read_source:
        uint64_t count
        uint64_t bytes

    ctypedef struct cdp_stages:
        cdp_histogram stage[CDP_STAGES]
        cdp_read_source source[CDP_SOURCES]
        uint64_t read_bytes
        uint64_t written_bytes
        uint64_t parked

    void cdp_count(uint64_t *p, uint64_t n)
    void cdp_uncount(uint64_t *p, uint64_t n)
    void cdp_stage_add(cdp_stages *s, uint32_t stage, uint64_t ns)
    void cdp_stage_add_sampled(cdp_stages *s, uint32_t stage, uint64_t ns)
    int cdp_stage_sampled(cdp_stages *s)
    void cdp_source_add(cdp_stages *s, uint32_t source, uint64_t bytes)
    uint32_t cdp_source_of(uint64_t ns, uint64_t bytes)


cdef class Stages:
    # constant after construction; what it points to is atomic
    cdef cdp_stages *s

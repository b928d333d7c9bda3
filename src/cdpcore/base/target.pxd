"""A disk as a front end sees it (base/target.h)."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.stages cimport cdp_stages
from cdpcore.base.status cimport cdp_status


cdef extern from "base/target.h" nogil:
    enum:
        CDP_FUA
        CDP_HOLE
        CDP_META
        CDP_AGAIN
        CDP_EXTENT_DATA
        CDP_EXTENT_ZERO
        CDP_EXTENT_HOLE
        CDP_EXTENT_CHANGED
        CDP_EXTENT_UNKNOWN
    const char *CDP_TARGET_CAPSULE

    ctypedef struct cdp_extent:
        uint64_t offset
        uint64_t length
        uint32_t kind
        uint32_t reserved

    ctypedef struct cdp_target:
        void *ctx
        uint64_t size_bytes
        uint32_t read_only
        uint32_t tells_seq
        int (*pread)(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil
        int (*pwrite)(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags,
                      cdp_status *st) noexcept nogil
        int (*zero)(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st) noexcept nogil
        int (*flush)(void *ctx, cdp_status *st) noexcept nogil
        int (*map)(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
                   cdp_status *st) noexcept nogil
        int (*pwrite_seq)(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil
        int (*zero_seq)(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *seq,
                        cdp_status *st) noexcept nogil
        uint64_t (*written_seq)(void *ctx) noexcept nogil
        int (*write_out)(void *ctx, uint64_t beyond, cdp_status *st) noexcept nogil
        void (*expect)(void *ctx, uint64_t offset, uint64_t length) noexcept nogil
        int (*pread_now)(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil
        cdp_stages *stages

    ctypedef struct cdp_map:
        void *ctx
        int (*map)(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
                   cdp_status *st) noexcept nogil

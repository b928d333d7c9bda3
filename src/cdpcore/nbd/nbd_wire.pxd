"""The transmission phase of the NBD protocol as bytes (nbd/nbd_wire.h)."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.target cimport cdp_extent


cdef extern from "nbd/nbd_wire.h" nogil:
    enum:
        CDP_NBD_REQUEST_MAGIC
        CDP_NBD_REQUEST_BYTES
        CDP_NBD_SIMPLE_BYTES
        CDP_NBD_CHUNK_BYTES
        CDP_NBD_DATA_BYTES
        CDP_NBD_HOLE_BYTES
        CDP_NBD_ERROR_MAX_BYTES
        CDP_NBD_STATUS_BYTES
        CDP_NBD_MIN_BLOCK
        CDP_NBD_PREFERRED_BLOCK
        CDP_NBD_MAX_PAYLOAD
        CDP_NBD_MAX_DRAIN
        CDP_NBD_READ
        CDP_NBD_WRITE
        CDP_NBD_DISC
        CDP_NBD_FLUSH
        CDP_NBD_TRIM
        CDP_NBD_CACHE
        CDP_NBD_WRITE_ZEROES
        CDP_NBD_BLOCK_STATUS
        CDP_NBD_FLAG_FUA
        CDP_NBD_FLAG_NO_HOLE
        CDP_NBD_FLAG_DF
        CDP_NBD_FLAG_REQ_ONE
        CDP_NBD_EXPORT_READ_ONLY
        CDP_NBD_EXPORT_FLUSH
        CDP_NBD_EXPORT_FUA
        CDP_NBD_EXPORT_TRIM
        CDP_NBD_EXPORT_WRITE_ZEROES
        CDP_NBD_EINVAL
        CDP_NBD_EIO
        CDP_NBD_ENOSPC
        CDP_NBD_CHUNK_NONE
        CDP_NBD_CHUNK_STATUS
        CDP_NBD_CHUNK_DONE
    ctypedef struct cdp_nbd_request:
        uint16_t flags
        uint16_t type
        uint32_t length
        uint64_t cookie
        uint64_t offset
    ctypedef struct cdp_nbd_rules:
        uint64_t size_bytes
        uint8_t read_only
        uint8_t structured
        uint8_t block_status
        uint8_t fast_zero
    int cdp_nbd_parse(const uint8_t *p, uint64_t n, cdp_nbd_request *r)
    uint64_t cdp_nbd_payload_bytes(const cdp_nbd_request *r)
    uint32_t cdp_nbd_validate(const cdp_nbd_request *r, const cdp_nbd_rules *x, const char **why)
    uint32_t cdp_nbd_errno(int32_t code, int32_t sys_errno)
    uint32_t cdp_nbd_put_simple(uint8_t *p, uint64_t cookie, uint32_t error)
    uint32_t cdp_nbd_put_chunk(uint8_t *p, uint32_t flags, uint32_t type, uint64_t cookie, uint32_t length)
    uint32_t cdp_nbd_put_data(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t data_bytes)
    uint32_t cdp_nbd_put_hole(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t hole_bytes)
    uint32_t cdp_nbd_put_error(uint8_t *p, uint64_t cookie, uint32_t error, const char *message)
    uint32_t cdp_nbd_put_status(uint8_t *p, uint16_t flags, uint64_t cookie, uint32_t context_id, uint32_t count)
    uint32_t cdp_nbd_put_request(uint8_t *p, const cdp_nbd_request *r)
    int cdp_nbd_get_simple(const uint8_t *p, uint32_t *error, uint64_t *cookie)
    int cdp_nbd_put_extents(uint8_t *out, uint32_t cap, uint32_t *count, uint64_t *pos, uint64_t end,
                            const cdp_extent *ext, uint32_t n)

"""One NBD connection's transmission phase (see nbd.pyx), and the C declarations that it needs."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from cdpcore.base.errors cimport cdp_status

cdef extern from "base/target.h" nogil:
    enum:
        CDP_FUA
        CDP_HOLE
        CDP_EXTENT_DATA
        CDP_EXTENT_ZERO
        CDP_EXTENT_HOLE
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
        int (*pread)(void *, void *, uint64_t, uint64_t, cdp_status *) noexcept nogil
        int (*pwrite)(void *, const void *, uint64_t, uint64_t, uint32_t, cdp_status *) noexcept nogil
        int (*zero)(void *, uint64_t, uint64_t, uint32_t, cdp_status *) noexcept nogil
        int (*flush)(void *, cdp_status *) noexcept nogil
        int (*map)(void *, uint64_t, uint64_t, cdp_extent *, uint32_t, uint32_t *, cdp_status *) noexcept nogil
        int (*pwrite_seq)(void *, const void *, uint64_t, uint64_t, uint32_t, uint64_t *, cdp_status *) noexcept nogil
        int (*zero_seq)(void *, uint64_t, uint64_t, uint32_t, uint64_t *, cdp_status *) noexcept nogil
        uint64_t (*written_seq)(void *) noexcept nogil
        int (*write_out)(void *, uint64_t, cdp_status *) noexcept nogil
        void (*expect)(void *, uint64_t, uint64_t) noexcept nogil

cdef extern from "nbd/nbd_wire.h" nogil:
    enum:
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
        CDP_NBD_EIO
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
    uint32_t cdp_nbd_put_status(uint8_t *p, uint64_t cookie, uint32_t context_id, uint32_t count)
    void cdp_nbd_patch_error(uint8_t *p, uint32_t error)
    int cdp_nbd_put_extents(uint8_t *out, uint32_t cap, uint32_t *count, uint64_t *pos, uint64_t end,
                            const cdp_extent *ext, uint32_t n)
    int cdp_nbd_is_zero(const uint8_t *p, uint64_t n)

cdef extern from "nbd/nbd_sock.h" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
    void *MAP_FAILED
    void *mmap(void *, size_t, int, int, int, long)  # <sys/mman.h>
    int munmap(void *, size_t)

# Written by the connection's thread alone; read by anybody, each word whole but not all of one moment.
cdef struct nbd_counters:
    uint64_t requests        # answered or to be answered; not DISC
    uint64_t errors          # answered with an error
    uint64_t reads
    uint64_t writes
    uint64_t zeroes          # WRITE_ZEROES and TRIM
    uint64_t flushes         # FLUSH requests; many may share one flush of the target
    uint64_t read_bytes
    uint64_t written_bytes
    uint64_t zeroed_bytes
    uint64_t received_bytes  # on the socket
    uint64_t sent_bytes
    uint64_t batches         # sends: requests / batches says how well replies are gathered

cdef enum:
    MAP_BATCH = 128          # extents a map() call
    PENDING_MAX = 512        # replies waiting for one flush

cdef class Connection:
    # Constant after open.
    cdef object sock         # keeps fd open
    cdef object capsule      # keeps *target alive
    cdef const cdp_target *target
    cdef cdp_nbd_rules rules
    cdef bint own_fua               # FUA never becomes a flush that others share
    cdef int fd
    cdef uint32_t context_id
    cdef uint8_t *rx         # RANGE_BYTES of address space
    cdef uint8_t *tx
    # The connection's thread only.
    cdef uint64_t rx_begin, rx_end   # bytes received and not yet parsed
    cdef uint64_t need_bytes         # the request at rx_begin is complete with so many
    cdef uint64_t tx_end             # bytes of replies gathered
    cdef uint64_t high_bytes         # how far rx or tx were touched since pages were last given back
    cdef uint64_t round_bytes        # ... and in this round
    cdef uint64_t drain_bytes        # payload of a refused write still to be thrown away, then `drained` is answered
    cdef cdp_nbd_request drained
    cdef uint32_t drain_error
    cdef const char *drain_why
    cdef uint32_t pending            # replies that wait for a flush
    cdef uint32_t pending_at[PENDING_MAX]  # where in tx they lie
    cdef cdp_extent extents[MAP_BATCH]
    # Any thread, atomic.
    cdef nbd_counters counts
    cdef int stopping
    cdef int started

    cdef int run(self) noexcept nogil
    cdef int process(self) noexcept nogil
    cdef int fill(self) noexcept nogil
    cdef void foresee(self) noexcept nogil
    cdef int send(self) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void execute(self, const cdp_nbd_request *r, const uint8_t *payload, bint last) noexcept nogil
    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil
    cdef void finish(self, const cdp_nbd_request *r, int rc, const cdp_status *st, bint flush_due) noexcept nogil
    cdef void read(self, const cdp_nbd_request *r) noexcept nogil
    cdef int read_sparse(self, const cdp_nbd_request *r) noexcept nogil
    cdef void cache(self, const cdp_nbd_request *r) noexcept nogil
    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil
    cdef void give_back(self) noexcept nogil

/* The transmission phase of the NBD protocol as bytes: parse and check a request, build replies; and a client's half.
 *
 * Pure leaf functions over caller-owned memory: no allocation, no system call, no state, callable from any thread, safe
 * on any input. The protocol document is doc/proto.md of the NetworkBlockDevice/nbd project; names follow it.
 *
 * Invariants
 *  1. Nothing acts on a request before cdp_nbd_validate() has accepted it; what it accepts satisfies
 *     offset + length <= size_bytes without overflow, length <= CDP_NBD_MAX_PAYLOAD where bytes move, and only flags
 *     that the command documents.
 *  2. All wire integers are big-endian and unaligned; all struct fields are in host order.
 *  3. A builder writes exactly the bytes that its name's *_BYTES constant (plus stated payload) says. */
#ifndef CDP_NBD_WIRE_H
#define CDP_NBD_WIRE_H
#include <stdint.h>
#include "base/status.h"
#include "base/target.h"

#define CDP_NBD_REQUEST_MAGIC 0x25609513u
#define CDP_NBD_SIMPLE_MAGIC 0x67446698u
#define CDP_NBD_CHUNK_MAGIC 0x668e33efu

#define CDP_NBD_REQUEST_BYTES 28u
#define CDP_NBD_SIMPLE_BYTES 16u
#define CDP_NBD_CHUNK_BYTES 20u                               /* header of a structured reply chunk */
#define CDP_NBD_DATA_BYTES (CDP_NBD_CHUNK_BYTES + 8u)         /* plus the data */
#define CDP_NBD_HOLE_BYTES (CDP_NBD_CHUNK_BYTES + 12u)
#define CDP_NBD_MESSAGE_MAX 255u                              /* ours; the protocol allows 4096 */
#define CDP_NBD_ERROR_MAX_BYTES (CDP_NBD_CHUNK_BYTES + 6u + CDP_NBD_MESSAGE_MAX)
#define CDP_NBD_STATUS_BYTES (CDP_NBD_CHUNK_BYTES + 4u)       /* plus 8 a descriptor */

/* Advertised in NBD_INFO_BLOCK_SIZE; also the protocol's defaults for a client that did not ask. */
#define CDP_NBD_MIN_BLOCK 1u
#define CDP_NBD_PREFERRED_BLOCK 4096u
#define CDP_NBD_MAX_PAYLOAD (32u << 20)
/* A refused write's payload is read and thrown away up to this size; a longer one ends the connection. */
#define CDP_NBD_MAX_DRAIN (64u << 20)

enum cdp_nbd_command {
    CDP_NBD_READ = 0,
    CDP_NBD_WRITE = 1,
    CDP_NBD_DISC = 2,
    CDP_NBD_FLUSH = 3,
    CDP_NBD_TRIM = 4,
    CDP_NBD_CACHE = 5,
    CDP_NBD_WRITE_ZEROES = 6,
    CDP_NBD_BLOCK_STATUS = 7,
    CDP_NBD_COMMANDS = 8,
};

enum cdp_nbd_command_flag {
    CDP_NBD_FLAG_FUA = 1,
    CDP_NBD_FLAG_NO_HOLE = 2,
    CDP_NBD_FLAG_DF = 4,
    CDP_NBD_FLAG_REQ_ONE = 8,
    CDP_NBD_FLAG_FAST_ZERO = 16,
};

enum cdp_nbd_export_flag { /* what a server announces, of what a client asks about */
    CDP_NBD_EXPORT_READ_ONLY = 2,
    CDP_NBD_EXPORT_FLUSH = 4,
    CDP_NBD_EXPORT_FUA = 8,
    CDP_NBD_EXPORT_TRIM = 32,
    CDP_NBD_EXPORT_WRITE_ZEROES = 64,
};

enum cdp_nbd_error {
    CDP_NBD_EPERM = 1,
    CDP_NBD_EIO = 5,
    CDP_NBD_ENOMEM = 12,
    CDP_NBD_EINVAL = 22,
    CDP_NBD_ENOSPC = 28,
    CDP_NBD_EOVERFLOW = 75,
    CDP_NBD_ENOTSUP = 95,
    CDP_NBD_ESHUTDOWN = 108,
};

enum cdp_nbd_chunk {
    CDP_NBD_CHUNK_NONE = 0,
    CDP_NBD_CHUNK_DATA = 1,
    CDP_NBD_CHUNK_HOLE = 2,
    CDP_NBD_CHUNK_STATUS = 5,
    CDP_NBD_CHUNK_ERROR = 0x8001,
};
#define CDP_NBD_CHUNK_DONE 1u /* flag: last chunk of its reply */

enum cdp_nbd_state { CDP_NBD_STATE_HOLE = 1, CDP_NBD_STATE_ZERO = 2 }; /* base:allocation */
#define CDP_NBD_STATE_DIRTY 1u /* qemu:dirty-bitmap:NAME, cdp:since:POINT */

typedef struct cdp_nbd_request {
    uint16_t flags;
    uint16_t type;
    uint32_t length; /* bytes */
    uint64_t cookie; /* opaque, given back as it came */
    uint64_t offset; /* bytes */
} cdp_nbd_request;

/* What was agreed in the handshake and what the export is: all that checking a request needs. */
typedef struct cdp_nbd_rules {
    uint64_t size_bytes;
    uint8_t read_only;
    uint8_t structured;   /* NBD_OPT_STRUCTURED_REPLY was negotiated */
    uint8_t block_status; /* a metadata context was selected */
    uint8_t fast_zero;    /* WRITE_ZEROES costs less than writing zeros */
} cdp_nbd_rules;

/* 1: *r holds the request at `p`. 0: n < CDP_NBD_REQUEST_BYTES. -1: bad magic, the stream cannot be trusted further. */
int cdp_nbd_parse(const uint8_t *p, uint64_t n, cdp_nbd_request *r);

/* Bytes that follow the header, whatever the request is worth. */
static inline uint64_t cdp_nbd_payload_bytes(const cdp_nbd_request *r)
{
    return r->type == CDP_NBD_WRITE ? r->length : 0;
}

/* 0 when the request may be carried out, else the NBD error to answer; *why is then static text. */
uint32_t cdp_nbd_validate(const cdp_nbd_request *r, const cdp_nbd_rules *x, const char **why);

/* The error that a client gets for a failed status. Only values that the protocol defines. */
uint32_t cdp_nbd_errno(int32_t code, int32_t sys_errno);

/* Builders: each returns the bytes written at `p`. */
uint32_t cdp_nbd_put_simple(uint8_t *p, uint64_t cookie, uint32_t error);
uint32_t cdp_nbd_put_chunk(uint8_t *p, uint32_t flags, uint32_t type, uint64_t cookie, uint32_t length);
uint32_t cdp_nbd_put_data(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t data_bytes);
uint32_t cdp_nbd_put_hole(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t hole_bytes);
/* `message` may be NULL; more than CDP_NBD_MESSAGE_MAX bytes of it are cut off. */
uint32_t cdp_nbd_put_error(uint8_t *p, uint64_t cookie, uint32_t error, const char *message);
/* The header of a block status reply of one context, whose `count` >= 1 descriptors already lie behind it; flags:
 * CDP_NBD_CHUNK_DONE in the last one. */
uint32_t cdp_nbd_put_status(uint8_t *p, uint16_t flags, uint64_t cookie, uint32_t context_id, uint32_t count);

/* A client's: the request's header at `p`, its length; and the fields of a simple reply of CDP_NBD_SIMPLE_BYTES: 0, or
 * -1 where that has the wrong magic. */
uint32_t cdp_nbd_put_request(uint8_t *p, const cdp_nbd_request *r);
int cdp_nbd_get_simple(const uint8_t *p, uint32_t *error, uint64_t *cookie);

/* Append block status descriptors for extents that must start at *pos and be adjacent, joining equal neighbours.
 * `out`: room for `cap` descriptors, *count of them filled. Advances *pos, never past `end`.
 * 0: all taken. 1: full, *pos says where it stopped. -1: the extents break the target's contract. */
int cdp_nbd_put_extents(uint8_t *out, uint32_t cap, uint32_t *count, uint64_t *pos, uint64_t end, const cdp_extent *ext,
                        uint32_t n);

#endif

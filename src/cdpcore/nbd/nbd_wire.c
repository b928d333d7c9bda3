#include <errno.h>
#include <string.h>
#include "nbd/nbd_wire.h"

static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

static inline void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

static inline uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static inline uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

int cdp_nbd_parse(const uint8_t *p, uint64_t n, cdp_nbd_request *r)
{
    if (n < CDP_NBD_REQUEST_BYTES)
        return 0;
    if (get32(p) != CDP_NBD_REQUEST_MAGIC)
        return -1;
    r->flags = (uint16_t)get16(p + 4);
    r->type = (uint16_t)get16(p + 6);
    r->cookie = get64(p + 8);
    r->offset = get64(p + 16);
    r->length = get32(p + 24);
    return 1;
}

/* What each command allows. FUA is legal on every one of them: the protocol makes a server that offers it accept it
 * everywhere, and clients are known to set it on reads. */
enum { RANGE = 1, CHANGES = 2, BOUNDED = 4 };
static const struct {
    uint8_t flags;     /* besides FUA */
    uint8_t rules;     /* RANGE: takes offset and length; CHANGES: refused on read-only; BOUNDED: by the max payload */
    uint8_t beyond;    /* the error for a range that passes the end */
} commands[CDP_NBD_COMMANDS] = {
    [CDP_NBD_READ] = {CDP_NBD_FLAG_DF, RANGE | BOUNDED, CDP_NBD_EINVAL},
    [CDP_NBD_WRITE] = {0, RANGE | CHANGES | BOUNDED, CDP_NBD_ENOSPC},
    [CDP_NBD_DISC] = {0xff, 0, 0},
    [CDP_NBD_FLUSH] = {0, 0, 0},
    [CDP_NBD_TRIM] = {0, RANGE | CHANGES, CDP_NBD_EINVAL},
    [CDP_NBD_CACHE] = {0, RANGE | BOUNDED, CDP_NBD_EINVAL},
    [CDP_NBD_WRITE_ZEROES] = {CDP_NBD_FLAG_NO_HOLE | CDP_NBD_FLAG_FAST_ZERO, RANGE | CHANGES, CDP_NBD_ENOSPC},
    [CDP_NBD_BLOCK_STATUS] = {CDP_NBD_FLAG_REQ_ONE, RANGE, CDP_NBD_EINVAL},
};

static inline uint32_t refuse(const char **why, uint32_t error, const char *text)
{
    *why = text;
    return error;
}

uint32_t cdp_nbd_validate(const cdp_nbd_request *r, const cdp_nbd_rules *x, const char **why)
{
    if (r->type >= CDP_NBD_COMMANDS)
        return refuse(why, CDP_NBD_EINVAL, "unknown command");
    if (r->type == CDP_NBD_DISC)
        return 0;
    uint32_t rules = commands[r->type].rules;
    if (r->flags & ~((uint32_t)commands[r->type].flags | CDP_NBD_FLAG_FUA))
        return refuse(why, CDP_NBD_EINVAL, "a flag that this command does not take");
    if ((r->flags & CDP_NBD_FLAG_DF) && !x->structured)
        return refuse(why, CDP_NBD_EINVAL, "DF without structured replies");
    if (r->type == CDP_NBD_BLOCK_STATUS && !x->block_status)
        return refuse(why, CDP_NBD_EINVAL, "block status without a selected metadata context");
    if ((rules & CHANGES) && x->read_only)
        return refuse(why, CDP_NBD_EPERM, "the export is read-only");
    if (!(rules & RANGE)) {
        if (r->offset || r->length)
            return refuse(why, CDP_NBD_EINVAL, "a flush has no offset and no length");
        return 0;
    }
    if ((rules & BOUNDED) && r->length > CDP_NBD_MAX_PAYLOAD)
        return refuse(why, r->type == CDP_NBD_WRITE || !x->structured ? CDP_NBD_EINVAL : CDP_NBD_EOVERFLOW,
                      "longer than the maximum payload");
    if (r->offset > x->size_bytes || r->length > x->size_bytes - r->offset)
        return refuse(why, commands[r->type].beyond, "beyond the end of the export");
    if (r->type == CDP_NBD_BLOCK_STATUS && !r->length)
        return refuse(why, CDP_NBD_EINVAL, "block status of no bytes");
    if ((r->flags & CDP_NBD_FLAG_FAST_ZERO) && !x->fast_zero)
        return refuse(why, CDP_NBD_ENOTSUP, "zeroing is not faster than writing here");
    return 0;
}

uint32_t cdp_nbd_errno(int32_t code, int32_t sys_errno)
{
    switch (code) {
    case CDP_INVALID:
    case CDP_REFUSED:
        return CDP_NBD_EINVAL;
    case CDP_NOSPACE:
        return CDP_NBD_ENOSPC;
    case CDP_CLOSED:
        return CDP_NBD_ESHUTDOWN;
    default:
        break;
    }
    switch (sys_errno) {
    case EROFS:
    case EPERM:
    case EACCES:
        return CDP_NBD_EPERM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return CDP_NBD_ENOSPC;
    case ENOMEM:
        return CDP_NBD_ENOMEM;
    case ESHUTDOWN:
        return CDP_NBD_ESHUTDOWN;
    default:
        return CDP_NBD_EIO;
    }
}

uint32_t cdp_nbd_put_simple(uint8_t *p, uint64_t cookie, uint32_t error)
{
    put32(p, CDP_NBD_SIMPLE_MAGIC);
    put32(p + 4, error);
    put64(p + 8, cookie);
    return CDP_NBD_SIMPLE_BYTES;
}

uint32_t cdp_nbd_put_chunk(uint8_t *p, uint32_t flags, uint32_t type, uint64_t cookie, uint32_t length)
{
    put32(p, CDP_NBD_CHUNK_MAGIC);
    put16(p + 4, flags);
    put16(p + 6, type);
    put64(p + 8, cookie);
    put32(p + 16, length);
    return CDP_NBD_CHUNK_BYTES;
}

uint32_t cdp_nbd_put_data(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t data_bytes)
{
    cdp_nbd_put_chunk(p, flags, CDP_NBD_CHUNK_DATA, cookie, data_bytes + 8);
    put64(p + CDP_NBD_CHUNK_BYTES, offset);
    return CDP_NBD_DATA_BYTES;
}

uint32_t cdp_nbd_put_hole(uint8_t *p, uint32_t flags, uint64_t cookie, uint64_t offset, uint32_t hole_bytes)
{
    cdp_nbd_put_chunk(p, flags, CDP_NBD_CHUNK_HOLE, cookie, 12);
    put64(p + CDP_NBD_CHUNK_BYTES, offset);
    put32(p + CDP_NBD_CHUNK_BYTES + 8, hole_bytes);
    return CDP_NBD_HOLE_BYTES;
}

uint32_t cdp_nbd_put_error(uint8_t *p, uint64_t cookie, uint32_t error, const char *message)
{
    uint32_t n = message ? (uint32_t)strnlen(message, CDP_NBD_MESSAGE_MAX) : 0;
    cdp_nbd_put_chunk(p, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_ERROR, cookie, 6 + n);
    put32(p + CDP_NBD_CHUNK_BYTES, error);
    put16(p + CDP_NBD_CHUNK_BYTES + 4, n);
    if (n)
        memcpy(p + CDP_NBD_CHUNK_BYTES + 6, message, n);
    return CDP_NBD_CHUNK_BYTES + 6 + n;
}

uint32_t cdp_nbd_put_status(uint8_t *p, uint16_t flags, uint64_t cookie, uint32_t context_id, uint32_t count)
{
    cdp_nbd_put_chunk(p, flags, CDP_NBD_CHUNK_STATUS, cookie, 4 + 8 * count);
    put32(p + CDP_NBD_CHUNK_BYTES, context_id);
    return CDP_NBD_STATUS_BYTES;
}

uint32_t cdp_nbd_put_request(uint8_t *p, const cdp_nbd_request *r)
{
    put32(p, CDP_NBD_REQUEST_MAGIC);
    put16(p + 4, r->flags);
    put16(p + 6, r->type);
    put64(p + 8, r->cookie);
    put64(p + 16, r->offset);
    put32(p + 24, r->length);
    return CDP_NBD_REQUEST_BYTES;
}

int cdp_nbd_get_simple(const uint8_t *p, uint32_t *error, uint64_t *cookie)
{
    *error = get32(p + 4);
    *cookie = get64(p + 8);
    return get32(p) == CDP_NBD_SIMPLE_MAGIC ? 0 : -1;
}

int cdp_nbd_put_extents(uint8_t *out, uint32_t cap, uint32_t *count, uint64_t *pos, uint64_t end, const cdp_extent *ext,
                        uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (ext[i].offset != *pos || !ext[i].length || ext[i].length > end - *pos)
            return -1;
        uint32_t state = ext[i].kind == CDP_EXTENT_HOLE   ? CDP_NBD_STATE_HOLE | CDP_NBD_STATE_ZERO
                         : ext[i].kind == CDP_EXTENT_ZERO ? CDP_NBD_STATE_ZERO
                         : ext[i].kind == CDP_EXTENT_CHANGED ? CDP_NBD_STATE_DIRTY
                                                          : 0;
        uint8_t *next = out + 8 * (uint64_t)*count;
        if (*count && get32(next - 4) == state && ext[i].length <= UINT32_MAX - get32(next - 8)) {
            put32(next - 8, get32(next - 8) + (uint32_t)ext[i].length);
        } else {
            if (*count == cap)
                return 1;
            uint32_t length = ext[i].length > UINT32_MAX ? UINT32_MAX : (uint32_t)ext[i].length;
            put32(next, length);
            put32(next + 4, state);
            ++*count;
            if (length < ext[i].length) {
                *pos += length;
                return 1;
            }
        }
        *pos += ext[i].length;
    }
    return 0;
}

/* The door for requests that come as MDPackets. */
#include "channel/mdpacket.h"

static int refuse(cdp_status *st, const cdp_mdpacket *p, uint64_t expected, uint64_t actual, const char *why)
{
    int rc = cdp_fail(st, CDP_INVALID, 0, p->lba <= UINT64_MAX / CDP_MD_SECTOR - 1 ? cdp_mdpacket_offset(p) : 0, why);
    st->expected = expected;
    st->actual = actual;
    return rc;
}

int cdp_mdpacket_check(const cdp_mdpacket *p, uint64_t size_bytes, cdp_status *st)
{
    if (p->version != CDP_MD_VERSION)
        return refuse(st, p, CDP_MD_VERSION, p->version, "packet of an unknown version");
    if (p->op < CDP_MD_READ || p->op > CDP_MD_INQUIRE)
        return refuse(st, p, 0, p->op, "packet with an unknown operation");
    if (p->flags & CDP_MD_RESPONSE)
        return refuse(st, p, 0, p->flags, "an answer where a request belongs");
    if (p->flags & ~CDP_MD_REQUEST_FLAGS)
        return refuse(st, p, CDP_MD_REQUEST_FLAGS, p->flags, "request with flags that it cannot have");
    if (p->flags & CDP_MD_FUA && (p->op == CDP_MD_READ || p->op >= CDP_MD_FLUSH))
        return refuse(st, p, 0, p->op, "FUA on an operation that changes nothing");
    if (p->n_bgs > CDP_MD_BGS)
        return refuse(st, p, CDP_MD_BGS, p->n_bgs, "packet with too many buffer groups");
    if (p->op >= CDP_MD_FLUSH) {
        if (p->lba || p->skew_bytes || p->length_bytes || p->n_bgs)
            return refuse(st, p, 0, p->length_bytes, "a request without a range that has one, or data");
        return CDP_OK;
    }
    if (p->skew_bytes >= CDP_MD_SECTOR)
        return refuse(st, p, CDP_MD_SECTOR - 1, p->skew_bytes, "packet that begins past its sector");
    if (p->length_bytes == 0)
        return refuse(st, p, 1, 0, "packet without a length");
    if (p->lba > size_bytes / CDP_MD_SECTOR || cdp_mdpacket_offset(p) > size_bytes
        || p->length_bytes > size_bytes - cdp_mdpacket_offset(p))
        return refuse(st, p, size_bytes, p->length_bytes, "packet reaches past the end of the LUN");
    uint64_t data = 0;
    for (uint32_t i = 0; i < p->n_bgs; i++) {
        if (p->bg[i].generation == 0 || p->bg[i].length_bytes == 0)
            return refuse(st, p, 1, i, "packet with an empty buffer reference");
        if (p->bg[i].offset_bytes > UINT32_MAX - p->bg[i].length_bytes)
            return refuse(st, p, UINT32_MAX, p->bg[i].offset_bytes, "buffer reference that wraps around");
        data += p->bg[i].length_bytes;
    }
    uint64_t wanted = p->op == CDP_MD_READ || p->op == CDP_MD_WRITE ? p->length_bytes : 0;
    if (data != wanted)
        return refuse(st, p, wanted, data, "packet whose buffers do not hold its data");
    return CDP_OK;
}

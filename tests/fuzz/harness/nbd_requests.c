/* Requests of an NBD client, and replies of an NBD server: what is accepted lies in the export (nbd_wire.h, invariant
 * 1), and what is refused has an error that the protocol defines. */
#include "fuzz.h"
#include "nbd/nbd_wire.h"

static void check_request(const cdp_nbd_request *r, const cdp_nbd_rules *x)
{
    const char *why = NULL;
    uint32_t error = cdp_nbd_validate(r, x, &why);
    uint8_t again[CDP_NBD_REQUEST_BYTES];
    cdp_nbd_request back;
    FUZZ_CHECK(cdp_nbd_put_request(again, r) == CDP_NBD_REQUEST_BYTES);
    FUZZ_CHECK(cdp_nbd_parse(again, sizeof again, &back) == 1);
    FUZZ_CHECK(back.flags == r->flags && back.type == r->type && back.cookie == r->cookie);
    FUZZ_CHECK(back.offset == r->offset && back.length == r->length);
    if (error) {
        uint8_t reply[CDP_NBD_ERROR_MAX_BYTES];
        FUZZ_CHECK(why && *why && cdp_nbd_put_error(reply, r->cookie, error, why) <= sizeof reply);
        FUZZ_CHECK(error == CDP_NBD_EPERM || error == CDP_NBD_EINVAL || error == CDP_NBD_ENOSPC ||
                   error == CDP_NBD_EOVERFLOW || error == CDP_NBD_ENOTSUP);
        return;
    }
    FUZZ_CHECK(r->type < CDP_NBD_COMMANDS);
    if (r->type == CDP_NBD_DISC)
        return;
    FUZZ_CHECK(r->offset <= x->size_bytes && r->length <= x->size_bytes - r->offset);
    FUZZ_CHECK(cdp_nbd_payload_bytes(r) <= CDP_NBD_MAX_PAYLOAD);
    FUZZ_CHECK(r->type != CDP_NBD_READ || r->length <= CDP_NBD_MAX_PAYLOAD);
    FUZZ_CHECK(!x->read_only || (r->type != CDP_NBD_WRITE && r->type != CDP_NBD_TRIM &&
                                 r->type != CDP_NBD_WRITE_ZEROES));
}

static void check_extents(const uint8_t *data, size_t n)
{
    enum { CAP = 6 };
    cdp_extent ext[16];
    uint8_t out[CAP * 8];
    uint32_t count = 0, given = 0;
    uint64_t pos = n > 8 ? data[0] : 0, end = pos + 4096, at = pos;
    memset(ext, 0, sizeof ext);
    for (size_t i = 1; i + sizeof ext[0] <= n && given < 16; i += sizeof ext[0])
        memcpy(&ext[given++], data + i, sizeof ext[0]);
    int rc = cdp_nbd_put_extents(out, CAP, &count, &pos, end, ext, given);
    FUZZ_CHECK(rc >= -1 && rc <= 1 && count <= CAP && pos <= end && pos >= at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    cdp_nbd_rules x = {0};
    if (n < 9)
        return 0;
    memcpy(&x.size_bytes, data, 8);
    x.read_only = data[8] & 1;
    x.structured = data[8] >> 1 & 1;
    x.block_status = data[8] >> 2 & 1;
    x.fast_zero = data[8] >> 3 & 1;
    for (size_t at = 9; at < n; at += CDP_NBD_REQUEST_BYTES) {
        cdp_nbd_request r;
        uint32_t error;
        uint64_t cookie;
        int rc = cdp_nbd_parse(data + at, n - at, &r);
        if (n - at >= CDP_NBD_SIMPLE_BYTES)
            (void)cdp_nbd_get_simple(data + at, &error, &cookie);
        if (rc == 0)
            break;
        if (rc == 1)
            check_request(&r, &x);
    }
    check_extents(data + 9, n - 9);
    return 0;
}

/* Random bytes and random extents through nbd_wire.c, built with sanitizers by test_nbd_wire.py.
 * argv: seed, rounds. Exit 0 when every property held; a failing one prints itself with the seed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/zeros.h"
#include "nbd/nbd_wire.h"

static uint64_t state;
static unsigned long long seed;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

#define CHECK(x)                                                                       \
    do {                                                                               \
        if (!(x)) {                                                                    \
            fprintf(stderr, "line %d: %s fails, seed %llu\n", __LINE__, #x, seed);     \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

static uint64_t edgy(void)
{
    static const uint64_t edges[] = {0, 1, 27, 28, 511, 4096, 1u << 25, (1u << 25) + 1, 1ull << 31, (1ull << 32) - 1,
                                     1ull << 32, (1ull << 32) + 1, 1ull << 63, (1ull << 63) - 1, UINT64_MAX};
    uint64_t v = edges[rnd() % (sizeof(edges) / sizeof(*edges))];
    return rnd() % 4 ? v : rnd() >> (rnd() % 64);
}

static void put(uint8_t *p, uint64_t v, int bytes)
{
    while (bytes--)
        p[bytes] = (uint8_t)v, v >>= 8;
}

static void requests(void)
{
    uint32_t n = rnd() % 8 ? CDP_NBD_REQUEST_BYTES : (uint32_t)(rnd() % 40);
    uint8_t *p = malloc(n ? n : 1); /* exactly as long as said: reading past it is caught */
    for (uint32_t i = 0; i < n; i++)
        p[i] = (uint8_t)rnd();
    if (n >= 28 && rnd() % 8) {
        put(p, CDP_NBD_REQUEST_MAGIC, 4);
        if (rnd() % 4)
            put(p + 4, rnd() % 40, 2);
        if (rnd() % 4)
            put(p + 6, rnd() % 9, 2);
        put(p + 16, edgy(), 8);
        put(p + 24, edgy(), 4);
    }
    cdp_nbd_request r;
    int got = cdp_nbd_parse(p, n, &r);
    CHECK((got == 0) == (n < 28));
    if (got == 1) {
        cdp_nbd_rules x = {edgy(), rnd() & 1, rnd() & 1, rnd() & 1, rnd() & 1};
        const char *why = NULL;
        uint32_t e = cdp_nbd_validate(&r, &x, &why);
        CHECK(cdp_nbd_payload_bytes(&r) == (r.type == CDP_NBD_WRITE ? r.length : 0));
        if (e) {
            CHECK(why && strlen(why) <= CDP_NBD_MESSAGE_MAX);
            CHECK(e == CDP_NBD_EPERM || e == CDP_NBD_EINVAL || e == CDP_NBD_ENOSPC || e == CDP_NBD_EOVERFLOW ||
                  e == CDP_NBD_ENOTSUP);
        } else if (r.type != CDP_NBD_DISC) {
            static const uint16_t flags[] = {5, 1, 0, 1, 1, 1, 19, 9};
            CHECK(r.type < CDP_NBD_COMMANDS && !(r.flags & ~flags[r.type]));
            CHECK((unsigned __int128)r.offset + r.length <= x.size_bytes);
            if (r.type == CDP_NBD_READ || r.type == CDP_NBD_WRITE || r.type == CDP_NBD_CACHE)
                CHECK(r.length <= CDP_NBD_MAX_PAYLOAD);
            if (r.type == CDP_NBD_WRITE || r.type == CDP_NBD_TRIM || r.type == CDP_NBD_WRITE_ZEROES)
                CHECK(!x.read_only);
            if (r.type == CDP_NBD_BLOCK_STATUS)
                CHECK(x.block_status && r.length);
        }
    } else if (got < 0) {
        CHECK(p[0] != 0x25 || p[1] != 0x60 || p[2] != 0x95 || p[3] != 0x13);
    }
    free(p);
}

static uint32_t get(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void extents(void)
{
    enum { MAX = 12 };
    cdp_extent e[MAX];
    uint32_t n = (uint32_t)(rnd() % MAX), cap = (uint32_t)(rnd() % 6), count = 0;
    uint64_t start = rnd() >> (rnd() % 40 + 20), at = start, pos = start;
    for (uint32_t i = 0; i < n; i++) {
        e[i] = (cdp_extent){at, rnd() % 3 ? rnd() % 5 + 1 : rnd() >> 30, (uint32_t)(rnd() % 3), 0};
        at += e[i].length;
    }
    uint64_t end = at;
    int broken = n && rnd() % 4 == 0;
    if (broken) {
        uint32_t i = (uint32_t)(rnd() % n);
        switch (rnd() % 3) {
        case 0: e[i].offset += 1 + rnd() % 9; break;
        case 1: e[i].length = 0; break;
        default: e[i].length = end - e[i].offset + 1 + (rnd() % 2 ? UINT64_MAX / 2 : 0); break;
        }
    }
    uint8_t *out = malloc(8 * (uint64_t)cap + 1);
    int rc = cdp_nbd_put_extents(out, cap, &count, &pos, end, e, n);
    CHECK(count <= cap && pos >= start && pos <= end);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        CHECK(get(out + 8 * i));
        sum += get(out + 8 * i);
    }
    CHECK(sum == pos - start);
    if (!broken) {
        int zero_length = 0;
        for (uint32_t i = 0; i < n; i++)
            zero_length |= !e[i].length;
        CHECK(zero_length || rc >= 0);
        if (rc == 0)
            CHECK(pos == end);
    }
    free(out);
}

/* What a client puts, a server parses, and the other way round. */
static void client(void)
{
    cdp_nbd_request r = {(uint16_t)rnd(), (uint16_t)rnd(), (uint32_t)edgy(), rnd(), edgy()}, back;
    uint8_t *p = malloc(CDP_NBD_REQUEST_BYTES);
    CHECK(cdp_nbd_put_request(p, &r) == CDP_NBD_REQUEST_BYTES && cdp_nbd_parse(p, CDP_NBD_REQUEST_BYTES, &back) == 1);
    CHECK(back.flags == r.flags && back.type == r.type && back.length == r.length && back.cookie == r.cookie &&
          back.offset == r.offset);
    uint32_t error = (uint32_t)rnd(), got = 0;
    uint64_t cookie = rnd(), came = 0;
    p = realloc(p, CDP_NBD_SIMPLE_BYTES);
    CHECK(cdp_nbd_put_simple(p, cookie, error) == CDP_NBD_SIMPLE_BYTES);
    CHECK(cdp_nbd_get_simple(p, &got, &came) == 0 && got == error && came == cookie);
    p[rnd() % 4] ^= (uint8_t)(1u << rnd() % 8);
    CHECK(cdp_nbd_get_simple(p, &got, &came) == -1);
    free(p);
}

static void builders(void)
{
    uint8_t *p = malloc(CDP_NBD_ERROR_MAX_BYTES);
    char *text = malloc(600);
    uint32_t n = (uint32_t)(rnd() % 600);
    memset(text, 'x', 600);
    text[n ? n - 1 : 0] = 0;
    uint32_t said = cdp_nbd_put_error(p, rnd(), 5, rnd() % 5 ? text : NULL);
    CHECK(said <= CDP_NBD_ERROR_MAX_BYTES && get(p + 16) == said - 20);
    free(text);
    free(p);
    uint8_t *hole = malloc(CDP_NBD_HOLE_BYTES);
    CHECK(cdp_nbd_put_hole(hole, 1, rnd(), rnd(), 1) == CDP_NBD_HOLE_BYTES);
    free(hole);
    uint8_t *simple = malloc(CDP_NBD_SIMPLE_BYTES);
    CHECK(cdp_nbd_put_simple(simple, rnd(), 0) == CDP_NBD_SIMPLE_BYTES);
    free(simple);
    uint32_t e = cdp_nbd_errno((int32_t)(rnd() % 12) - 2, (int32_t)(rnd() % 140) - 2);
    CHECK(e == 1 || e == 5 || e == 12 || e == 22 || e == 28 || e == 108);
}

static void zeros(void)
{
    uint64_t n = rnd() % 5000;
    uint8_t *p = calloc(n ? n : 1, 1);
    CHECK(cdp_is_zero(p, n));
    if (n) {
        p[rnd() % n] = (uint8_t)(1 + rnd() % 255);
        CHECK(!cdp_is_zero(p, n));
    }
    free(p);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    seed = strtoull(argv[1], NULL, 10);
    state = seed * 2654435761u + 88172645463325252ull;
    for (long i = strtol(argv[2], NULL, 10); i > 0; i--) {
        requests();
        extents();
        builders();
        client();
        if (i % 16 == 0)
            zeros();
    }
    return 0;
}

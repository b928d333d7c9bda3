/* A test of zeros. */
#ifndef CDP_ZEROS_H
#define CDP_ZEROS_H
#include <stdint.h>
#include <string.h>

/* 1 when all n bytes are zero. Stops at the first byte that is not, so on data it costs next to nothing. */
static inline int cdp_is_zero(const void *bytes, uint64_t n)
{
    const uint8_t *p = bytes;
    uint64_t head = n < 16 ? n : 16;
    for (uint64_t i = 0; i < head; i++)
        if (p[i])
            return 0;
    /* The first 16 bytes are zero, so the rest is when it equals itself shifted by 16: memcmp is vectorised. */
    return n <= 16 || memcmp(p, p + 16, n - 16) == 0;
}
#endif

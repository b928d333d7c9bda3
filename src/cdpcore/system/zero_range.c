#include <string.h>
#include "base/zeros.h"
#include "system/zero_range.h"

int64_t cdp_zero_range(const cdp_os *os, int fd, uint64_t at, uint64_t n, uint8_t *buffer, uint64_t step)
{
    while (n) {
        uint64_t k = n < step ? n : step;
        int64_t rc = os->pread(os->ctx, fd, buffer, k, at);
        if (rc >= 0 && ((uint64_t)rc != k || !cdp_is_zero(buffer, k))) {
            memset(buffer, 0, k);
            rc = os->pwrite(os->ctx, fd, buffer, k, at);
        }
        if (rc < 0)
            return rc;
        at += k;
        n -= k;
    }
    return 0;
}

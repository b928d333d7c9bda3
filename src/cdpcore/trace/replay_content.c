#include "trace/replay_content.h"
#include <assert.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the pattern is stored as it lies in registers");

#define WORDS (CDP_REPLAY_SECTOR / 8)
#define STEP UINT64_C(0x9e3779b97f4a7c15)

static inline uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline void fill_sector(uint64_t *w, uint64_t sector, uint64_t key, uint64_t change)
{
    uint64_t m = mix(mix(mix(key) ^ sector) ^ change);
    for (uint32_t j = 0; j < WORDS; j++) /* no dependence between words: the compiler makes vectors of it */
        w[j] = m + j * STEP;
    w[0] = change;
    w[1] = sector;
    w[2] = key;
}

void cdp_replay_fill(uint8_t *out, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
{
    uint64_t w[WORDS], sector = offset / CDP_REPLAY_SECTOR, skip = offset % CDP_REPLAY_SECTOR, n;
    while (length) {
        n = CDP_REPLAY_SECTOR - skip < length ? CDP_REPLAY_SECTOR - skip : length;
        fill_sector(w, sector, key, change);
        memcpy(out, (const uint8_t *)w + skip, n);
        out += n;
        length -= n;
        sector++;
        skip = 0;
    }
}

static uint64_t same_bytes(const uint8_t *a, const uint8_t *b, uint64_t n)
{
    uint64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

uint64_t cdp_replay_match(const uint8_t *buf, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
{
    uint64_t w[WORDS], sector = offset / CDP_REPLAY_SECTOR, skip = offset % CDP_REPLAY_SECTOR, done = 0, n;
    while (done < length) {
        n = CDP_REPLAY_SECTOR - skip < length - done ? CDP_REPLAY_SECTOR - skip : length - done;
        fill_sector(w, sector, key, change);
        if (memcmp(buf + done, (const uint8_t *)w + skip, n))
            return done + same_bytes(buf + done, (const uint8_t *)w + skip, n);
        done += n;
        sector++;
        skip = 0;
    }
    return done;
}

uint64_t cdp_replay_claim(const uint8_t *sector_bytes, uint64_t sector, uint64_t key)
{
    uint64_t change;
    memcpy(&change, sector_bytes, 8);
    if (!change)
        return 0;
    uint64_t same = cdp_replay_match(sector_bytes, sector * CDP_REPLAY_SECTOR, CDP_REPLAY_SECTOR, key, change);
    return same == CDP_REPLAY_SECTOR ? change : 0;
}

uint64_t cdp_replay_zeros(const uint8_t *buf, uint64_t length)
{
    uint64_t i = 0;
    while (i < length && buf[i] == 0)
        i++;
    return i;
}

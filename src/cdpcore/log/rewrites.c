#include <string.h>
#include "log/rewrites.h"

#define TICK_BITS 12
#define TICK_MASK ((1u << TICK_BITS) - 1)
#define SECTORS (CDP_REWRITES_BLOCK / 512)

static inline uint64_t hash(uint64_t block)
{
    return block * UINT64_C(0x9E3779B97F4A7C15);
}

static inline int is_watched(uint64_t h)
{
    return h >> 60 == 0;
}

static inline uint32_t *place(struct cdp_rewrites *r, uint64_t h)
{
    return &r->stamps[(h >> 45) & (CDP_REWRITES_STAMPS - 1)];
}

static inline uint32_t name(uint64_t h)
{
    return (uint32_t)((h >> 25) & 0xFFFFF) << TICK_BITS;
}

/* Of a tick, never 0. */
static inline uint32_t mark(uint32_t tick)
{
    return tick % TICK_MASK + 1;
}

static inline uint64_t last_block(uint64_t start, uint64_t end)
{
    uint64_t first = start / SECTORS, last = (end + SECTORS - 1) / SECTORS;
    return last - first > CDP_REWRITES_MOST ? first + CDP_REWRITES_MOST : last;
}

void cdp_rewrites_read(struct cdp_rewrites *r, uint64_t start, uint64_t end)
{
    uint64_t last = last_block(start, end);
    for (uint64_t b = start / SECTORS; b < last; b++) {
        uint64_t h = hash(b);
        if (is_watched(h))
            __atomic_store_n(place(r, h), name(h) | mark(__atomic_load_n(&r->tick, __ATOMIC_RELAXED)),
                             __ATOMIC_RELAXED);
    }
}

static void sample(struct cdp_rewrites_count *c, uint64_t block)
{
    if (c->n++ & (c->stride - 1))
        return;
    if (c->n_samples == CDP_REWRITES_SAMPLES) {
        for (uint32_t i = 0; i < CDP_REWRITES_SAMPLES / 2; i++)
            c->samples[i] = c->samples[2 * i];
        c->n_samples = CDP_REWRITES_SAMPLES / 2;
        c->stride *= 2;
        if ((c->n - 1) & (c->stride - 1))
            return;
    }
    c->samples[c->n_samples++] = block;
}

static void watched(struct cdp_rewrites *r, int trimmed, uint64_t block, uint64_t h)
{
    uint32_t *at = place(r, h), stamp = __atomic_load_n(at, __ATOMIC_RELAXED), set, age;
    set = trimmed ? CDP_NEWLY_TRIMMED : CDP_NEWLY_WRITTEN;
    if ((stamp & TICK_MASK) && (stamp & ~TICK_MASK) == name(h)) {
        age = (mark(r->tick) + TICK_MASK - (stamp & TICK_MASK)) % TICK_MASK;
        __atomic_store_n(at, 0, __ATOMIC_RELAXED);
        if (age <= CDP_REWRITES_TICKS)
            set = trimmed ? CDP_RETRIMMED : CDP_REWRITTEN;
    }
    sample(&r->counts[set], block);
}

void cdp_rewrites_add(struct cdp_rewrites *r, int trimmed, uint64_t start, uint64_t end)
{
    uint64_t last = last_block(start, end);
    for (uint64_t b = start / SECTORS; b < last; b++) {
        uint64_t h = hash(b);
        if (is_watched(h))
            watched(r, trimmed, b, h);
    }
}

void cdp_rewrites_begin(struct cdp_rewrites *r, uint32_t tick)
{
    memset(r->counts, 0, sizeof(r->counts));
    for (int i = 0; i < CDP_REWRITES_SETS; i++)
        r->counts[i].stride = 1;
    __atomic_store_n(&r->tick, tick, __ATOMIC_RELAXED);
}

uint64_t cdp_unevenness(const uint8_t *block)
{
    uint32_t counts[4][256] = {{0}};
    uint64_t squares = 0;
    for (uint32_t i = 0; i < CDP_REWRITES_BLOCK; i += 4) {  /* four tables: equal bytes do not wait */
        counts[0][block[i]]++;
        counts[1][block[i + 1]]++;
        counts[2][block[i + 2]]++;
        counts[3][block[i + 3]]++;
    }
    for (uint32_t i = 0; i < 256; i++) {
        uint64_t n = counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];
        squares += n * n;
    }
    return squares * 256 / CDP_REWRITES_BLOCK - CDP_REWRITES_BLOCK;
}

uint32_t cdp_units_alike(const uint8_t *a, const uint8_t *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < CDP_REWRITES_BLOCK; i += 16)
        n += memcmp(a + i, b + i, 16) == 0;
    return n;
}

/* Readers and a writer of one log's slots, as fast as they can: what a reader finds is what was written at that
 * location, and what is not in a file yet is always found. Run by tests/core/test_slots.py.
 *
 *     slots_check OPENINGS BROKEN     exit 0: nothing wrong; 1: a reader saw something wrong; 2: the table leaks */
#include <stdio.h>
#include <stdlib.h>
#include "base/format.h"
#include "log/memory_bound.h"

enum { CAP = 5, SECTORS = 16, READERS = 2, LAG = 2, PER_SEGMENT = 37 };

static void *pages(void *ctx, uint64_t n)
{
    (void)ctx;
    return calloc(1, n);
}
static void free_pages(void *ctx, void *addr, uint64_t n)
{
    (void)ctx;
    (void)n;
    free(addr);
}
static const cdp_os os = {.pages = pages, .free_pages = free_pages};
static cdp_memory memory;
static cdp_slots slots;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static uint64_t written;              /* slots: each holds one frame */
static uint64_t shown;                /* slots that readers may ask for */
static uint64_t firsts[1024];         /* of slot k: firsts[k % 1024], since k was shown */
static int wrong, done;

#define get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define put(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

static uint32_t used_sectors(uint64_t k) { return SECTORS / 2 + (uint32_t)(k * 7 % (SECTORS / 2)) + 1; }

static void *reader(void *seed_)
{
    uint64_t x = (uint64_t)(uintptr_t)seed_;
    while (!get(&done) && !get(&wrong)) {
        uint64_t n = get(&shown);
        if (!n)
            continue;
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t k = n - 1 - (x >> 33) % (CAP + 3) % n;
        uint64_t loc = get(&firsts[k % 1024]) + (x >> 40) % used_sectors(k);
        uint32_t token;
        const uint64_t *at = (const uint64_t *)(void *)cdp_slots_pin(&slots, loc, &token);
        if (!at) {
            if (get(&written) <= k)
                put(&wrong, 1); /* nowhere else */
            continue;
        }
        for (uint32_t i = 0; i < CDP_SECTOR / 8; i++)
            if (__atomic_load_n(&at[i], __ATOMIC_RELAXED) != loc && get(&shown) - k < 1000)
                put(&wrong, 1);
        cdp_slots_unpin(&slots, token);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    uint64_t openings = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, loc = 0;
    pthread_t threads[READERS];
    cdp_memory_init(&memory, (CAP - 1) * SECTORS * CDP_SECTOR);
    if (cdp_slots_init(&slots, &os, &mutex, &freed, &written, SECTORS * CDP_SECTOR, CAP))
        return 2;
    cdp_memory_join(&memory, &slots);
    slots.broken = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    for (uintptr_t i = 0; i < READERS; i++)
        pthread_create(&threads[i], NULL, reader, (void *)(i + 1));
    for (uint64_t k = 0; k < openings && !get(&wrong); k++) {
        pthread_mutex_lock(&mutex);
        if (k)
            cdp_slots_close(&slots, used_sectors(k - 1), k);
        put(&written, k > LAG ? k - LAG : 0);
        uint8_t *mem;
        while (!(mem = slots.n < CAP ? cdp_memory_new(&memory, &slots, 0) : NULL) && !(mem = cdp_slots_take(&slots, 1)))
            pthread_cond_wait(&freed, &mutex);
        loc = k % PER_SEGMENT ? loc + used_sectors(k - 1) : cdp_loc((uint32_t)(k / PER_SEGMENT) + 1, CDP_BLOCK);
        cdp_slots_open(&slots, mem, loc);
        if (k % 11 == 10) {
            cdp_slots_look(&slots);
            while ((mem = cdp_slots_take_idle(&slots)))
                cdp_memory_free(&memory, &slots, mem);
        }
        mem = slots.at[slots.newest].mem;
        pthread_mutex_unlock(&mutex);
        for (uint32_t i = 0; i < used_sectors(k) * (CDP_SECTOR / 8); i++)
            __atomic_store_n((uint64_t *)(void *)mem + i, loc + i / (CDP_SECTOR / 8), __ATOMIC_RELAXED);
        put(&firsts[k % 1024], loc);
        put(&shown, k + 1);
    }
    put(&done, 1);
    for (uint32_t i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    if (memory.most_bytes > memory.limit_bytes || slots.n > CAP - 1)
        return 2;
    cdp_memory_leave(&memory, &slots);
    if (memory.used_bytes)
        return 2;
    if (wrong)
        puts("a reader saw something else than was written there");
    return wrong;
}

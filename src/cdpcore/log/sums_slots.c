#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/format.h"
#include "log/sums_slots.h"

/* Sets between the first pages of two files. 256 over the golden ratio, made odd: whatever number of pages files have,
 * those of some files in a row take every set about as often. */
#define FILE_STEP 159u
#define SLOW_US 200u

#define get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define put(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

int cdp_sums_slots_init(cdp_sums_slots *t)
{
    *t = (cdp_sums_slots){.slots = calloc(CDP_SUMS_SETS * CDP_SUMS_WAYS, sizeof *t->slots)};
    return t->slots ? 0 : -ENOMEM;
}

void cdp_sums_slots_free(cdp_sums_slots *t)
{
    for (uint32_t i = 0; t->slots && i < CDP_SUMS_SETS * CDP_SUMS_WAYS; i++)
        free(t->slots[i].sums);
    free(t->slots);
    t->slots = NULL;
}

static uint64_t key_of(uint32_t number, uint64_t page) { return (uint64_t)number << 32 | (page + 1); }

static cdp_sums_slot *set_of(const cdp_sums_slots *t, uint32_t number, uint64_t page)
{
    return &t->slots[(number * FILE_STEP + (uint32_t)page) % CDP_SUMS_SETS * CDP_SUMS_WAYS];
}

int cdp_sums_slots_find(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first, uint32_t n,
                        uint32_t *out)
{
    const cdp_sums_slot *s = set_of(t, number, page);
    for (uint32_t way = 0; way < CDP_SUMS_WAYS; way++, s++) {
        uint32_t turn = get(&s->turn);
        if (turn & 1 || get(&s->key) != key_of(number, page))
            continue;
        for (uint32_t i = 0; i < n; i++)
            out[i] = get(&s->sums[first + i]);
        /* Acquire above, release in exchange(): who has seen one word of an exchange sees its odd turn, or a later one,
         * here. */
        return __atomic_load_n(&s->turn, __ATOMIC_RELAXED) == turn;
    }
    return 0;
}

void cdp_sums_slots_fetch(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first)
{
    const cdp_sums_slot *s = set_of(t, number, page);
    for (uint32_t way = 0; way < CDP_SUMS_WAYS; way++, s++)
        if (get(&s->key) == key_of(number, page))
            __builtin_prefetch(&s->sums[first]);
}

/* sums NULL: the slot is empty then. */
static void exchange(const cdp_sums_slots *t, cdp_sums_slot *s, uint64_t key, const uint32_t *sums)
{
    uint32_t turn = s->turn;
    if (!(t->broken & CDP_BREAK_TURN))
        __atomic_store_n(&s->turn, turn + 1, __ATOMIC_RELAXED); /* every store below is a release: not seen before it */
    put(&s->key, key);
    for (uint32_t i = 0; sums && i < CDP_SUMS_PER_PAGE; i++) {
        put(&s->sums[i], sums[i]);
        if (i == CDP_SUMS_PER_PAGE / 2 && t->broken & CDP_BREAK_SLOW)
            cdp_nap_us(SLOW_US);
    }
    if (!(t->broken & CDP_BREAK_TURN))
        put(&s->turn, turn + 2);
}

int cdp_sums_slots_put(cdp_sums_slots *t, uint32_t number, uint64_t page, const uint32_t *sums)
{
    cdp_sums_slot *set = set_of(t, number, page), *s = NULL;
    for (uint32_t way = 0; way < CDP_SUMS_WAYS && !s; way++)
        if (set[way].key == key_of(number, page))
            s = &set[way];
    for (uint32_t way = 0; way < CDP_SUMS_WAYS && !s; way++)
        if (!set[way].key)
            s = &set[way];
    if (!s)
        s = &set[t->next++ % CDP_SUMS_WAYS];
    if (!s->sums && !(s->sums = malloc(CDP_SUMS_PER_PAGE * sizeof *s->sums)))
        return -ENOMEM;
    exchange(t, s, key_of(number, page), sums);
    return 0;
}

void cdp_sums_slots_drop(cdp_sums_slots *t, uint32_t number)
{
    for (uint32_t i = 0; i < CDP_SUMS_SETS * CDP_SUMS_WAYS; i++)
        if (t->slots[i].key && t->slots[i].key >> 32 == number)
            exchange(t, &t->slots[i], 0, NULL);
}

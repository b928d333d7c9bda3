#include <errno.h>
#include "base/format.h"
#include "log/slots.h"

#define MAX_STEPS 64 /* of a chain without the lock: one that changes meanwhile may lead anywhere */

#define get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define put(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

static uint64_t at_bytes(const cdp_slots *t) { return t->cap * sizeof *t->at; }
static uint64_t heads_bytes(const cdp_slots *t) { return (t->mask + 1ull) * sizeof *t->heads; }

int cdp_slots_init(cdp_slots *t, const cdp_os *os, pthread_mutex_t *mutex, pthread_cond_t *freed,
                   const uint64_t *written, uint64_t slot_bytes, uint32_t cap)
{
    *t = (cdp_slots){.os = os, .mutex = mutex, .freed = freed, .written = written, .slot_bytes = slot_bytes,
                     .cap = cap, .recent = UINT64_MAX, .spare = CDP_NO_SLOT, .oldest = CDP_NO_SLOT,
                     .newest = CDP_NO_SLOT};
    while ((uint64_t)CDP_SECTOR << t->shift < slot_bytes)
        t->shift++;
    t->mask = 3;
    while (t->mask < 2 * cap)
        t->mask = 2 * t->mask + 1;
    /* Not from malloc: once a process has freed something as large, that zeroes, so takes, all of it: 0.4 MiB a log. */
    t->at = os->pages(os->ctx, at_bytes(t));
    t->heads = os->pages(os->ctx, heads_bytes(t));
    if (t->at && t->heads)
        return 0;
    cdp_slots_destroy(t);
    return -ENOMEM;
}

void cdp_slots_destroy(cdp_slots *t)
{
    for (uint32_t i = 0; t->at && i < t->fresh; i++)
        if (t->at[i].mem)
            t->os->free_pages(t->os->ctx, t->at[i].mem, t->slot_bytes);
    if (t->at)
        t->os->free_pages(t->os->ctx, t->at, at_bytes(t));
    if (t->heads)
        t->os->free_pages(t->os->ctx, t->heads, heads_bytes(t));
    t->at = NULL;
    t->heads = NULL;
    t->n = t->fresh = 0;
}

static uint32_t *head_of(const cdp_slots *t, uint64_t step)
{
    return &t->heads[(uint32_t)((step * 0x9E3779B97F4A7C15ull) >> 32) & t->mask];
}

/* --- the table (mutex held) ------------------------------------------------------------------------------------- */

static void begin_change(cdp_slots *t) { put(&t->version, t->version + 1); }
static void end_change(cdp_slots *t) { put(&t->version, t->version + 1); }

static void unchain(cdp_slots *t, uint32_t i)
{
    uint32_t *link = head_of(t, t->at[i].first >> t->shift);
    while (*link && *link != i + 1)
        link = &t->at[*link - 1].chain;
    if (!*link)
        return;
    begin_change(t);
    put(link, t->at[i].chain);
    end_change(t);
}

uint32_t cdp_slots_open(cdp_slots *t, uint8_t *mem, uint64_t first)
{
    uint32_t i = t->spare;
    if (i != CDP_NO_SLOT)
        t->spare = t->at[i].newer;
    else
        i = t->fresh++;
    cdp_slot *s = &t->at[i];
    uint32_t *head = head_of(t, first >> t->shift);
    s->mem = mem;
    s->end_frame = CDP_FRAMES_OPEN;
    s->use++;
    s->looked = s->idle = 0;
    s->older = t->newest;
    s->newer = CDP_NO_SLOT;
    *(t->newest == CDP_NO_SLOT ? &t->oldest : &t->at[t->newest].newer) = i;
    t->newest = i;
    __atomic_store_n(&t->waiting, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&t->n, t->n + 1, __ATOMIC_RELAXED);
    begin_change(t);
    put(&s->first, first);
    put(&s->sectors, t->slot_bytes / CDP_SECTOR);
    __atomic_and_fetch(&s->state, ~CDP_SLOT_OUT, __ATOMIC_ACQ_REL); /* readers that came too late may still count */
    put(&s->chain, *head);
    put(head, i + 1);
    end_change(t);
    return i;
}

void cdp_slots_close(cdp_slots *t, uint64_t sectors, uint64_t end_frame)
{
    cdp_slot *s = &t->at[t->newest];
    put(&s->sectors, sectors);
    s->end_frame = end_frame;
}

void cdp_slots_mark(cdp_slots *t, uint64_t first, uint64_t bound)
{
    uint64_t back = bound < CDP_SLOT_MARKS ? bound : CDP_SLOT_MARKS;
    if (t->n_marks && t->unmarked++ < bound / CDP_SLOT_MARKS)
        return;
    t->unmarked = 0;
    t->marks[t->n_marks++ % CDP_SLOT_MARKS] = first;
    uint64_t oldest = t->n_marks > back ? t->n_marks - (back ? back : 1) : 0;
    __atomic_store_n(&t->recent, t->marks[oldest % CDP_SLOT_MARKS], __ATOMIC_RELAXED);
}

/* No reader pins it from now on: 1; or it is pinned: 0. */
static int retire(cdp_slots *t, cdp_slot *s)
{
    uint64_t was = get(&s->state);
    do {
        if (was & CDP_SLOT_PINS && !(t->broken & CDP_BREAK_PINS))
            return 0;
    } while (!__atomic_compare_exchange_n(&s->state, &was, was | CDP_SLOT_OUT, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    return 1;
}

static uint8_t *drop(cdp_slots *t, uint32_t i)
{
    cdp_slot *s = &t->at[i];
    uint8_t *mem = s->mem;
    unchain(t, i);
    *(s->older == CDP_NO_SLOT ? &t->oldest : &t->at[s->older].newer) = s->newer;
    *(s->newer == CDP_NO_SLOT ? &t->newest : &t->at[s->newer].older) = s->older;
    s->mem = NULL;
    s->newer = t->spare;
    t->spare = i;
    __atomic_store_n(&t->n, t->n - 1, __ATOMIC_RELAXED);
    return mem;
}

uint8_t *cdp_slots_take(cdp_slots *t, int claim)
{
    cdp_slot *first = NULL;
    for (uint32_t i = t->oldest; i != CDP_NO_SLOT && t->at[i].end_frame <= *t->written; i = t->at[i].newer) {
        if (retire(t, &t->at[i]))
            return drop(t, i);
        if (!first)
            first = &t->at[i];
    }
    if (!claim || !first)
        return NULL;
    __atomic_store_n(&t->waiting, 1, __ATOMIC_SEQ_CST);
    uint64_t left = __atomic_or_fetch(&first->state, CDP_SLOT_OUT, __ATOMIC_SEQ_CST) & CDP_SLOT_PINS;
    return left ? NULL : drop(t, (uint32_t)(first - t->at)); /* it may have been let go before `waiting` was set */
}

void cdp_slots_look(cdp_slots *t)
{
    for (uint32_t i = t->oldest; i != CDP_NO_SLOT; i = t->at[i].newer) {
        cdp_slot *s = &t->at[i];
        uint64_t now = get(&s->state);
        s->idle = s->looked && s->seen == now;
        s->looked = 1;
        s->seen = now;
    }
}

uint8_t *cdp_slots_take_idle(cdp_slots *t)
{
    for (uint32_t i = t->oldest; i != CDP_NO_SLOT && t->at[i].end_frame <= *t->written; i = t->at[i].newer)
        if (t->at[i].idle && retire(t, &t->at[i]))
            return drop(t, i);
    return NULL;
}

uint32_t cdp_slots_unwritten(const cdp_slots *t)
{
    uint32_t n = 0;
    for (uint32_t i = t->newest; i != CDP_NO_SLOT && t->at[i].end_frame > *t->written; i = t->at[i].older)
        n++;
    return n;
}

/* --- readers ------------------------------------------------------------------------------------------------------ */

static int mirrors(const cdp_slot *s, uint64_t loc, uint64_t *first)
{
    *first = get(&s->first);
    return loc - *first < get(&s->sectors);
}

/* Pins the slot in the chain of `step` that mirrors loc. 1: it did, *at is the byte; 0: there is none, as the chain
 * stood; -1: not known, the chain was changing. */
static int pin_in(cdp_slots *t, uint64_t step, uint64_t loc, int locked, uint32_t *token, uint8_t **at)
{
    uint32_t link = get(head_of(t, step));
    uint64_t first, again;
    for (int steps = 0; link; steps++) {
        cdp_slot *s = &t->at[link - 1];
        if (steps == MAX_STEPS && !locked)
            return -1;
        if (mirrors(s, loc, &first) && !(locked && get(&s->state) & CDP_SLOT_OUT)) {
            uint64_t was = __atomic_fetch_add(&s->state, CDP_SLOT_READ + 1, __ATOMIC_SEQ_CST);
            if (!(was & CDP_SLOT_OUT || !mirrors(s, loc, &again) || again != first) || t->broken & CDP_BREAK_CHECK) {
                *token = link - 1;
                *at = s->mem + (loc - first) * CDP_SECTOR;
                return 1;
            }
            cdp_slots_unpin(t, link - 1); /* it was reused between the look and the pin */
            return -1;
        }
        link = get(&s->chain);
    }
    return 0;
}

static int pin_both(cdp_slots *t, uint64_t loc, int locked, uint32_t *token, uint8_t **at)
{
    uint64_t step = loc >> t->shift;
    int rc = pin_in(t, step, loc, locked, token, at);
    return rc || !step ? rc : pin_in(t, step - 1, loc, locked, token, at);
}

uint8_t *cdp_slots_pin(cdp_slots *t, uint64_t loc, uint32_t *token)
{
    uint8_t *at = NULL;
    uint64_t version = get(&t->version);
    int rc = version & 1 ? -1 : pin_both(t, loc, 0, token, &at);
    if (rc < 0 || (rc == 0 && get(&t->version) != version)) {
        pthread_mutex_lock(t->mutex); /* the table stands still; a slot in it that is OUT is about to be reused */
        (void)pin_both(t, loc, 1, token, &at);
        pthread_mutex_unlock(t->mutex);
    }
    if (!at && loc >= __atomic_load_n(&t->recent, __ATOMIC_RELAXED))
        __atomic_add_fetch(&t->misses, 1, __ATOMIC_RELAXED);
    return at;
}

void cdp_slots_unpin(cdp_slots *t, uint32_t token)
{
    uint64_t left = __atomic_sub_fetch(&t->at[token].state, 1, __ATOMIC_SEQ_CST);
    if (!(left & CDP_SLOT_PINS) && __atomic_load_n(&t->waiting, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(t->mutex);
        pthread_cond_broadcast(t->freed);
        pthread_mutex_unlock(t->mutex);
    }
}

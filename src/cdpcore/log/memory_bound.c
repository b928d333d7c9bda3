#include <signal.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/thread.h"
#include "log/memory_bound.h"

#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)

void cdp_memory_init(cdp_memory *m, uint64_t limit_bytes)
{
    *m = (cdp_memory){.limit_bytes = limit_bytes};
    pthread_mutex_init(&m->mutex, NULL);
    pthread_mutex_init(&m->stock_mutex, NULL);
    cdp_cond_init(&m->stock_wanted);
}

void cdp_memory_destroy(cdp_memory *m)
{
    if (m->has_thread && m->pid != getpid())
        return; /* in the child of a fork: the thread, which may have held the mutex, is the parent's */
    pthread_mutex_lock(&m->stock_mutex);
    m->stopping = 1;
    pthread_cond_signal(&m->stock_wanted);
    int join = m->has_thread;
    pthread_mutex_unlock(&m->stock_mutex);
    if (join)
        pthread_join(m->thread, NULL);
    pthread_cond_destroy(&m->stock_wanted);
    pthread_mutex_destroy(&m->stock_mutex);
    pthread_mutex_destroy(&m->mutex);
}

void cdp_memory_join(cdp_memory *m, cdp_slots *t)
{
    pthread_mutex_lock(&m->mutex);
    t->prev = NULL;
    t->next = m->logs;
    if (m->logs)
        m->logs->prev = t;
    m->logs = t;
    pthread_mutex_unlock(&m->mutex);
}

void cdp_memory_leave(cdp_memory *m, cdp_slots *t)
{
    pthread_mutex_lock(&m->mutex);
    *(t->prev ? &t->prev->next : &m->logs) = t->next;
    if (t->next)
        t->next->prev = t->prev;
    pthread_mutex_unlock(&m->mutex);
    __atomic_sub_fetch(&m->used_bytes, t->n * t->slot_bytes, __ATOMIC_RELAXED);
    cdp_slots_destroy(t);
}

static uint8_t *get_pages(cdp_memory *m, const cdp_os *os, uint64_t bytes, int beyond)
{
    uint64_t used = load(&m->used_bytes), most = load(&m->most_bytes);
    do {
        if (!beyond && used + bytes > load(&m->limit_bytes))
            return NULL;
    } while (!__atomic_compare_exchange_n(&m->used_bytes, &used, used + bytes, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    uint8_t *mem = os->pages(os->ctx, bytes);
    if (!mem) {
        __atomic_sub_fetch(&m->used_bytes, bytes, __ATOMIC_RELAXED);
        return NULL;
    }
    used += bytes;
    while (most < used && !__atomic_compare_exchange_n(&m->most_bytes, &most, used, 0, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
    return mem;
}

static void free_pages(cdp_memory *m, const cdp_os *os, uint8_t *mem, uint64_t bytes)
{
    os->free_pages(os->ctx, mem, bytes);
    __atomic_sub_fetch(&m->used_bytes, bytes, __ATOMIC_RELAXED);
}

uint8_t *cdp_memory_new(cdp_memory *m, cdp_slots *t, int beyond)
{
    return get_pages(m, t->os, t->slot_bytes, beyond || t->broken & CDP_BREAK_BOUND);
}

void cdp_memory_free(cdp_memory *m, const cdp_slots *t, uint8_t *mem) { free_pages(m, t->os, mem, t->slot_bytes); }

/* --- prepared ----------------------------------------------------------------------------------------------------- */

/* stock_mutex held: nothing is prepared any more. */
static void clear_stock(cdp_memory *m)
{
    while (m->n_stock)
        free_pages(m, m->stock_os, m->stock[--m->n_stock], m->stock_slot_bytes);
}

/* stock_mutex held, and let go meanwhile. */
static void pause_until(cdp_memory *m, uint64_t until_ns)
{
    uint64_t now;
    while (!m->stopping && (now = cdp_monotonic_ns()) < until_ns)
        (void)cdp_cond_wait_ms(&m->stock_wanted, &m->stock_mutex, (uint32_t)((until_ns - now) / 1000000 + 1));
}

static void *prepare(void *m_)
{
    cdp_memory *m = m_;
    pthread_mutex_lock(&m->stock_mutex);
    while (!m->stopping) {
        if (m->wanted && m->n_stock < CDP_STOCK) {
            const cdp_os *os = m->stock_os; /* stays what it is while this runs */
            uint64_t bytes = m->stock_slot_bytes, began = cdp_monotonic_ns();
            pthread_mutex_unlock(&m->stock_mutex);
            uint8_t *mem = get_pages(m, os, bytes, 0);
            for (uint64_t at = 0; mem && at < bytes; at += CDP_DIRECT_ALIGN)
                ((volatile uint8_t *)mem)[at] = 0;
            pthread_mutex_lock(&m->stock_mutex);
            m->wanted = mem && m->wanted ? m->wanted - 1 : 0;
            if (mem)
                m->stock[m->n_stock++] = mem;
            uint64_t now = cdp_monotonic_ns();
            m->slot_ns = now - began;
            pause_until(m, now + CDP_STOCK_PAUSE * m->slot_ns);
            continue;
        }
        m->wanted = 0;
        if (cdp_cond_wait_ms(&m->stock_wanted, &m->stock_mutex, CDP_STOCK_IDLE_MS) && !m->wanted)
            break;
    }
    clear_stock(m);
    m->running = 0;
    pthread_mutex_unlock(&m->stock_mutex);
    return NULL;
}

/* Signals are for the threads that the program made. */
static int start(cdp_memory *m)
{
    sigset_t all, old;
    m->pid = getpid();
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&m->thread, NULL, prepare, m);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

/* stock_mutex held. For a burst it must be made faster than the device writes: whether it is, the first slot says. */
static int is_cheap(const cdp_memory *m)
{
    return m->slot_ns ? m->slot_ns < m->stock_slot_bytes / CDP_STOCK_CHEAP : !m->wanted && !m->n_stock;
}

uint8_t *cdp_memory_prepared(cdp_memory *m, const cdp_slots *t, int for_reads)
{
    uint8_t *mem = NULL;
    pthread_mutex_lock(&m->stock_mutex);
    if (!m->running) { /* the stock is empty, too */
        m->stock_os = t->os;
        m->stock_slot_bytes = t->slot_bytes;
        m->slot_ns = 0;
        if (m->has_thread)
            pthread_join(m->thread, NULL);
        m->running = m->has_thread = !start(m);
    }
    if (m->stock_os == t->os && m->stock_slot_bytes == t->slot_bytes) { /* other sizes do without, while these go on */
        if (m->n_stock)
            mem = m->stock[--m->n_stock];
        if (m->wanted < CDP_STOCK && (for_reads || is_cheap(m)) && !m->wanted++)
            pthread_cond_signal(&m->stock_wanted);
    }
    pthread_mutex_unlock(&m->stock_mutex);
    return mem;
}

int cdp_memory_is_over(cdp_memory *m) { return load(&m->used_bytes) > load(&m->limit_bytes); }

/* mutex held: the log with the most bytes, `least` of them at least, that was not asked in this round; NULL: none. */
static cdp_slots *richest_of(cdp_memory *m, const cdp_slots *t, uint64_t least)
{
    cdp_slots *richest = NULL;
    for (cdp_slots *o = m->logs; o; o = o->next) {
        uint64_t bytes = load(&o->n) * o->slot_bytes;
        if (o != t && bytes >= least && o->asked != m->round) {
            least = bytes;
            richest = o;
        }
    }
    return richest;
}

uint8_t *cdp_memory_from_others(cdp_memory *m, cdp_slots *t, uint32_t has)
{
    uint8_t *mem = NULL;
    cdp_slots *o;
    if (load(&m->used_bytes) + t->slot_bytes <= load(&m->limit_bytes))
        return NULL;
    pthread_mutex_lock(&m->mutex);
    m->round++;
    while (!mem && (o = richest_of(m, t, (has + 2ull) * t->slot_bytes))) {
        o->asked = m->round; /* it may have nothing that is written, or only what readers have pinned */
        pthread_mutex_lock(o->mutex);
        mem = o->n > 1 ? cdp_slots_take(o, 0) : NULL;
        pthread_mutex_unlock(o->mutex);
        if (mem && (o->slot_bytes != t->slot_bytes || o->os != t->os)) {
            cdp_memory_free(m, o, mem);
            mem = cdp_memory_new(m, t, 0);
        }
    }
    pthread_mutex_unlock(&m->mutex);
    return mem;
}

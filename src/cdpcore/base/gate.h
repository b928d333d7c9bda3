/* Counts the calls that are inside an object, so that close() can wait for them. One atomic add on the way in, one on
 * the way out; nothing else may be touched before cdp_gate_enter says yes. */
#ifndef CDP_GATE_H
#define CDP_GATE_H
#include <stdint.h>
#include <time.h>

#define CDP_GATE_CLOSED (1ull << 63)

typedef struct cdp_gate {
    uint64_t v; /* callers inside, and the closed bit */
} cdp_gate;

static inline int cdp_gate_enter(cdp_gate *g)
{
    if (__atomic_fetch_add(&g->v, 1, __ATOMIC_ACQ_REL) & CDP_GATE_CLOSED) {
        __atomic_fetch_sub(&g->v, 1, __ATOMIC_ACQ_REL);
        return 0;
    }
    return 1;
}
static inline void cdp_gate_leave(cdp_gate *g) { __atomic_fetch_sub(&g->v, 1, __ATOMIC_ACQ_REL); }
static inline int cdp_gate_is_closed(cdp_gate *g)
{
    return (__atomic_load_n(&g->v, __ATOMIC_ACQUIRE) & CDP_GATE_CLOSED) != 0;
}

/* Refuse new callers; return when the last one has left. Only close() waits here: it polls, so leaving is cheap. */
static inline void cdp_gate_close(cdp_gate *g)
{
    struct timespec nap = {0, 100000};
    __atomic_fetch_or(&g->v, CDP_GATE_CLOSED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&g->v, __ATOMIC_ACQUIRE) & ~CDP_GATE_CLOSED)
        nanosleep(&nap, 0);
}

/* Refuse new callers without waiting: in the child of a fork, which does not have the threads that are inside. */
static inline void cdp_gate_shut(cdp_gate *g) { __atomic_fetch_or(&g->v, CDP_GATE_CLOSED, __ATOMIC_ACQ_REL); }
#endif

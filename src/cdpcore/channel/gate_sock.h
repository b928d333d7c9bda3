/* What a gateway's connection asks of the system: waiting for any of three descriptors, and one that another thread
 * replaces. POSIX. */
#ifndef CDP_GATE_SOCK_H
#define CDP_GATE_SOCK_H
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>

static inline int gate_swap(int *p, int v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }

enum { GATE_SOCK = 1, GATE_DOOR = 2, GATE_WAKE = 4 };

/* Sleep until one of them has something (or hung up), or for `ms`, -1: for ever; -1: not that one. Which. */
static inline uint32_t gate_poll(int sock, int door, int wake, int ms)
{
    struct pollfd p[3] = {{.fd = sock, .events = POLLIN},
                          {.fd = door, .events = POLLIN},
                          {.fd = wake, .events = POLLIN}};
    if (poll(p, 3, ms) < 0)
        return 0;
    return (p[0].revents ? GATE_SOCK : 0u) | (p[1].revents ? GATE_DOOR : 0u) | (p[2].revents ? GATE_WAKE : 0u);
}

/* Pages of shared memory go back to the system and read as zeros afterwards; where it cannot, they stay. */
static inline void gate_release(void *p, uint64_t n)
{
#if defined(MADV_REMOVE) && !defined(CDP_PLAIN_POSIX)
    madvise(p, n, MADV_REMOVE);
#else
    (void)p, (void)n;
#endif
}
#endif

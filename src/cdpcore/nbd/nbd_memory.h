/* How much memory the connections of a server may have together for large requests, and whose turn it is.
 *
 * A connection needs no leave for the first bytes of its ranges (nbd/loop.pyx: free_bytes), which is all that small
 * requests take. What goes beyond is claimed here. Who cannot have it at once gives back everything, waits, and is
 * served in the order in which they came: nobody is passed by, and because who waits has nothing, those who have some
 * never wait for one another.
 *
 * What is had by a connection whose client stalls, or drips, would be lost to the others. So while others wait, a
 * client that its connection waits for has to keep moving bytes, NBD_MEMORY_PACE_BYTES in pace_ns; else its
 * socket is shut down.
 *
 * Threads: any, but a claim is used by one. `lock` is never held while something is waited for. */
#ifndef CDP_NBD_MEMORY_H
#define CDP_NBD_MEMORY_H
#include <pthread.h>
#include <stdint.h>

#define NBD_MEMORY_LEAST_BYTES (40ull << 20) /* the largest request, and its reply, whole */
#define NBD_MEMORY_PACE_BYTES (4ull << 20)
#define NBD_MEMORY_LOOK_MS 200

typedef struct nbd_claim {
    int fd, bell;                               /* of the connection; bell: written to when it is its turn; -1: none */
    const uint64_t *received_bytes, *sent_bytes; /* its counters */
    /* guarded by nbd_memory.lock */
    struct nbd_claim *prev, *next;  /* of those who have some */
    struct nbd_claim *after;        /* of those who wait */
    uint64_t held_bytes, wanted_bytes;
    uint64_t seen_bytes;            /* moved, when that was looked at ... */
    int64_t seen_ns;                /* ... and when that was */
    /* atomic */
    int on_client;                  /* the connection waits for its client */
    int granted;
    int cut;
} nbd_claim;

typedef struct nbd_memory {
    pthread_mutex_t lock;
    uint64_t limit_bytes;            /* constant, as is ... */
    int64_t pace_ns;                 /* ... this */
    uint64_t used_bytes, most_bytes; /* atomic to read, as are ... */
    uint64_t waits, cuts;            /* ... how often one had to wait, and was cut off, and ... */
    uint32_t waiting;                /* ... how many wait now */
    nbd_claim *holders, *first, *last;
    int64_t looked_ns;
} nbd_memory;

void nbd_memory_init(nbd_memory *m, uint64_t limit_bytes, uint32_t pace_ms);
void nbd_memory_destroy(nbd_memory *m);

static inline uint32_t nbd_memory_waiting(const nbd_memory *m)
{
    return __atomic_load_n(&m->waiting, __ATOMIC_RELAXED);
}
static inline int nbd_claim_flag(const int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void nbd_claim_on_client(nbd_claim *c, int is) { __atomic_store_n(&c->on_client, is, __ATOMIC_RELAXED); }

/* n bytes more, unless others wait or there are not as many. */
int nbd_memory_try(nbd_memory *m, nbd_claim *c, uint64_t n);
/* n bytes more, whatever the bound: of a connection that comes with them from another server. */
void nbd_memory_force(nbd_memory *m, nbd_claim *c, uint64_t n);
/* n bytes, 0 for all that it has, are free. */
void nbd_memory_give(nbd_memory *m, nbd_claim *c, uint64_t n);
/* Stand in line for n bytes. `granted` says when they are the claim's. */
void nbd_memory_queue(nbd_memory *m, nbd_claim *c, uint64_t n);
/* Leave the line. False: too late, they are the claim's. */
int nbd_memory_leave(nbd_memory *m, nbd_claim *c);
/* While in line: sleep until the bell (its end to read; -1: none) rings, the client hangs up, or for a moment. True:
 * the client hung up. */
int nbd_memory_doze(nbd_memory *m, nbd_claim *c, int bell);
/* The turn has come: what rang the bell for it is read, or the next wait for the client would end at once. */
void nbd_memory_hush(nbd_memory *m, int bell);
#endif

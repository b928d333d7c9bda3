/* The simulator's state, shared by its table (os_sim.c) and its controls (os_sim_control.c). */
#ifndef CDP_OS_SIM_STATE_H
#define CDP_OS_SIM_STATE_H
#include <pthread.h>
#include "system/os_sim.h"
#include "system/os_sim_tree.h"

#define SIM_SLOTS 1024u
#define SIM_GENERATIONS (1u << 20) /* generation * SIM_SLOTS + slot stays below 2^31 */
#define SIM_MAX_FAULTS 32u
#define SIM_PART_BYTES 256u

enum sim_verdict { GO, IN_FLIGHT, LOSE, MISDIRECT }; /* how a call proceeds; negative errno: it fails */

typedef struct sim_handle {
    sim_inode *inode; /* NULL: the slot is free */
    char *path;
    uint32_t flags;
    uint32_t generation;
    uint32_t lost; /* generations up to here ended with a power cut at the latest: using one is no misuse */
} sim_handle;

typedef struct sim_fault {
    int verdict; /* LOSE, MISDIRECT or a negative errno; GO: the place is free */
    uint32_t call;
    uint64_t n, times;
    int64_t delta;
    char part[SIM_PART_BYTES];
} sim_fault;

typedef struct sim_queue sim_queue; /* os_sim_io.c */

typedef struct sim_mapping {
    struct sim_mapping *next;
    void *addr;
    uint64_t n;
} sim_mapping;

struct cdp_sim {
    cdp_os table;          /* constant */
    pthread_mutex_t mutex; /* guards the rest */
    sim_tree tree;
    sim_handle handles[SIM_SLOTS];
    uint32_t next_slot;
    uint64_t n_handles;
    sim_mapping *maps;
    uint64_t n_maps;
    sim_queue *queues;
    uint64_t n_queues;
    sim_fault faults[SIM_MAX_FAULTS];
    int64_t delta;         /* of the misdirected write under way */
    int powered, sparse;
    uint64_t cut_in;       /* calls until the power goes, this many included; UINT64_MAX: never */
    uint64_t calls, counts[CDP_SIM_N_CALLS], misuse;
    uint64_t space_pages;
    uint64_t clock_ns;
    int64_t clock_step_ns;
    /* Streams of their own: how many random bytes are drawn, and how many operations are in flight, does not change
     * what survives. */
    uint64_t rand_fate, rand_bytes, rand_order;
};

static inline cdp_sim *sim_lock(void *ctx)
{
    cdp_sim *s = ctx;
    (void)pthread_mutex_lock(&s->mutex);
    return s;
}

static inline void sim_unlock(cdp_sim *s) { (void)pthread_mutex_unlock(&s->mutex); }

/* How the disk treats what is un-synced, this time. */
static inline sim_fate sim_draw_fate(cdp_sim *s, uint32_t mode)
{
    return (sim_fate){.mode = (int)mode, .keep = (uint32_t)(sim_rand(&s->rand_fate) % 7), .rand = &s->rand_fate};
}

/* os_sim.c */
extern const cdp_os sim_table; /* all but ctx */
void sim_free_handle(cdp_sim *s, sim_handle *h);
/* No lock held. A write as the table's; durable: it, and what it overwrites, is durable when it returns. */
int64_t sim_write(cdp_sim *s, int fd, const void *buf, uint64_t n, uint64_t off, int durable);
/* No lock held. A sync of the first `upto` operations of the handle's file. */
int sim_sync_upto(cdp_sim *s, int fd, uint64_t upto);
/* The mutex held. How many operations the handle's file has had; 0: no such handle. */
uint64_t sim_operations(cdp_sim *s, int fd);
/* The mutex held, the power going. A write that the cut finds under way. */
void sim_write_in_flight(cdp_sim *s, const cdp_io *io);

/* os_sim_io.c */
cdp_ioq *sm_queue(void *ctx, uint32_t depth);
uint32_t sm_submit(void *ctx, cdp_ioq *q, cdp_io *list, uint32_t n);
uint32_t sm_complete(void *ctx, cdp_ioq *q, cdp_io **done, uint32_t max, int wait);
int sm_queue_fd(void *ctx, cdp_ioq *q);
void sm_free_queue(void *ctx, cdp_ioq *q);
/* The mutex held, the power going: what is in flight meets its fate. */
void sim_cut_queues(cdp_sim *s);

#endif

/* The simulated queue (system/io_queue.h): operations wait until complete() carries some of them out, in an order that
 * the seed decides. A power cut finds those that wait in flight: each write may have reached the disk in part, or not
 * at all. A sync covers the operations on its file that had been carried out when it was submitted. */
#include "system/os_sim_state.h"

#include <errno.h>
#include <stdlib.h>

typedef struct waiting {
    cdp_io *io;
    uint64_t upto; /* of a sync: operations of its file when it was submitted */
} waiting;

struct sim_queue {
    cdp_ioq q;
    sim_queue *next; /* of the machine's */
    uint32_t depth, n;
    waiting at[];
};

cdp_ioq *sm_queue(void *ctx, uint32_t depth)
{
    if (depth == 0 || depth > CDP_IO_MAX_DEPTH)
        return NULL;
    sim_queue *q = sim_alloc(sizeof *q + depth * sizeof q->at[0]);
    *q = (sim_queue){.depth = depth};
    cdp_sim *s = sim_lock(ctx);
    q->next = s->queues;
    s->queues = q;
    s->n_queues++;
    sim_unlock(s);
    return &q->q;
}

void sm_free_queue(void *ctx, cdp_ioq *queue)
{
    sim_queue *q = (sim_queue *)queue;
    if (!q)
        return;
    cdp_sim *s = sim_lock(ctx);
    sim_queue **at = &s->queues;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    s->n_queues--;
    s->misuse += q->n; /* in flight */
    sim_unlock(s);
    free(q);
}

int sm_queue_fd(void *ctx, cdp_ioq *q)
{
    (void)ctx, (void)q;
    return -1;
}

uint32_t sm_submit(void *ctx, cdp_ioq *queue, cdp_io *list, uint32_t n)
{
    sim_queue *q = (sim_queue *)queue;
    cdp_sim *s = sim_lock(ctx);
    if (n > q->depth - q->n)
        n = q->depth - q->n;
    for (uint32_t i = 0; i < n; i++, list = list->next)
        q->at[q->n++] = (waiting){.io = list, .upto = sim_operations(s, list->fd)};
    sim_unlock(s);
    return n;
}

static waiting take_any(cdp_sim *s, sim_queue *q)
{
    uint32_t i = (uint32_t)(sim_rand(&s->rand_order) % q->n);
    waiting w = q->at[i];
    q->at[i] = q->at[--q->n];
    return w;
}

static void carry_out(cdp_sim *s, const waiting *w)
{
    cdp_io *io = w->io;
    if (io->op == CDP_IO_READ)
        io->result = s->table.pread(s, io->fd, io->buf, io->n, io->off);
    else if (io->op == CDP_IO_DATASYNC)
        io->result = sim_sync_upto(s, io->fd, w->upto);
    else
        io->result = sim_write(s, io->fd, io->buf, io->n, io->off, io->durable != 0);
}

uint32_t sm_complete(void *ctx, cdp_ioq *queue, cdp_io **done, uint32_t max, int wait)
{
    sim_queue *q = (sim_queue *)queue;
    cdp_sim *s = sim_lock(ctx);
    uint32_t n = 0, wanted = 0;
    if (q->n && max)
        wanted = wait ? 1 + (uint32_t)(sim_rand(&s->rand_order) % q->n)
                      : (uint32_t)(sim_rand(&s->rand_order) % (q->n + 1));
    sim_unlock(s);
    for (; n < wanted && n < max; n++) {
        (void)sim_lock(s);
        waiting w = take_any(s, q);
        sim_unlock(s);
        carry_out(s, &w);
        done[n] = w.io;
    }
    return n;
}

void sim_cut_queues(cdp_sim *s)
{
    for (sim_queue *q = s->queues; q; q = q->next)
        for (uint32_t i = 0; i < q->n; i++)
            if (q->at[i].io->op == CDP_IO_WRITE && sim_rand(&s->rand_order) % 2)
                sim_write_in_flight(s, q->at[i].io);
}

/* One file of the simulated disk: what is read now, what is durable, and the operations in between.
 *
 * Invariants
 *  1. Applying all operations in order to the durable content gives the current content, but for the range of a STALE
 *     operation (left by a failed sync), where the two may differ until the power is cut.
 *  2. Outside the pages that an operation names, current and durable content are the same pages.
 *  3. Pages past the size hold no bytes but zeros.
 *
 * Threading: none; the simulator's mutex is held. */
#ifndef CDP_OS_SIM_FILE_H
#define CDP_OS_SIM_FILE_H
#include "system/os_sim_map.h"

/* A file with more un-synced operations or pages than this is written back, as a kernel does. */
#define SIM_MAX_OPS 65536u
#define SIM_MAX_OP_PAGES 65536u /* 256 MiB */

typedef struct sim_op sim_op;
typedef struct sim_file {
    sim_map cur, dur;
    uint64_t cur_size, dur_size; /* bytes */
    uint64_t changed_ns, dur_changed_ns; /* of the content; no sync makes it durable, the last crash said what is */
    uint64_t latest_ns;                  /* of the times since that crash */
    sim_op *first, *last;        /* un-synced, oldest first */
    uint64_t n_ops, op_pages, ops_made; /* ops_made: how many there have been, the number of the last one */
} sim_file;

/* How a power cut treats un-synced operations. */
typedef struct sim_fate {
    int mode;       /* enum cdp_sim_mode */
    uint32_t keep;  /* 0..6: of eight writes so many are kept, two are torn, the rest is dropped */
    uint64_t *rand; /* state of the stream that decides */
} sim_fate;

/* Bytes read: fewer than n only at the end. */
uint64_t sim_file_read(const sim_file *f, void *buf, uint64_t n, uint64_t off);
/* `in_flight`: the power goes while it is under way, so it is torn more often than others. off + n <= INT64_MAX. */
void sim_file_write(sim_pool *pool, sim_file *f, const void *buf, uint64_t n, uint64_t off, int in_flight);
/* The size becomes at least `size`; no data. */
void sim_file_grow(sim_pool *pool, sim_file *f, uint64_t size);
/* Its content changes at that time. */
void sim_file_touch(sim_file *f, uint64_t now_ns);
void sim_file_truncate(sim_pool *pool, sim_file *f, uint64_t size);
void sim_file_punch(sim_pool *pool, sim_file *f, uint64_t off, uint64_t n);
void sim_file_allocate(sim_pool *pool, sim_file *f, uint64_t off, uint64_t n);
int sim_file_next_data(const sim_pool *pool, const sim_file *f, uint64_t off, uint64_t *start, uint64_t *end);

/* Everything so far becomes durable. */
void sim_file_sync(sim_pool *pool, sim_file *f);
/* So do the first `upto` operations (as ops_made counts them), and nothing that came later. */
void sim_file_sync_upto(sim_pool *pool, sim_file *f, uint64_t upto);
/* So does the last operation, a write, and what it overwrites of earlier ones. */
void sim_file_sync_write(sim_pool *pool, sim_file *f);
/* A sync that fails: some of it becomes durable, the rest never will, and reads do not show which. */
void sim_file_sync_failed(sim_pool *pool, sim_file *f, const sim_fate *fate);
/* The power comes back: decide, and read from now on what is durable. */
void sim_file_crash(sim_pool *pool, sim_file *f, const sim_fate *fate);
/* Flip a bit of a durable byte (< dur_size). Reads see it unless that sector was written since the last sync. */
void sim_file_flip(sim_pool *pool, sim_file *f, uint64_t byte, uint32_t bit);
void sim_file_clear(sim_pool *pool, sim_file *f);

#endif

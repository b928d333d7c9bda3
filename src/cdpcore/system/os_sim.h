/* The simulated operating system: an in-memory file system that forgets what was not synced, tears writes, flips bits,
 * loses and misdirects writes, fills up, fails calls and cuts the power at any call. The engine runs on it unchanged.
 *
 * What it promises (and a caller may count on no more)
 *  1. Writes, truncates, punches and allocations of a file are durable after datasync of a handle of that file.
 *  2. A name that was created, renamed or removed is durable after sync_dir of its directory (a rename between two
 *     directories: of either). A file's data being durable says nothing about its name, nor the reverse.
 *  3. Until then every operation on content has its own fate: kept, dropped, or (a write) torn into 512-byte sectors;
 *     a new size may be there without its data, which then reads as zeros. Of operations on names a prefix survives.
 *  4. After a failed datasync some of that content is lost for good although reads still show it and later datasyncs
 *     succeed.
 *  5. Operations in flight (system/io_queue.h) are carried out when they are completed, in an order that the seed
 *     decides; a power cut finds writes that wait under way. A sync covers what was complete when it was submitted.
 *  6. Reads, sizes and listings show the current state, whatever is durable.
 *
 * Deterministic: the same seed and the same calls in the same order give the same results.
 * Wrong use is refused and counted (cdp_sim_misuse): a closed or unknown handle, a direct transfer with an unaligned
 * address, offset or length, a map beyond the end, an unknown address to unmap.
 *
 * Bounds: 1024 open handles; 32 armed faults; the disk's capacity (8 GiB unless set), which also bounds the memory;
 * 65,536 operations or 256 MiB of un-synced writes in a file and 4,096 name operations, beyond which all of that file's
 * (or of the names) is made durable, as a kernel does in its own time. Out of memory ends the process.
 *
 * Threading: any thread; one mutex. Handles die with the power; maps and pages live until they are given back. */
#ifndef CDP_OS_SIM_H
#define CDP_OS_SIM_H
#include <stdint.h>
#include "system/os.h"

typedef struct cdp_sim cdp_sim;

enum cdp_sim_mode {
    CDP_SIM_SEEDED = 0, /* by the seed, each operation for itself */
    CDP_SIM_DROP = 1,   /* nothing un-synced survives */
    CDP_SIM_KEEP = 2,   /* everything does, the call during which the power went included */
    CDP_SIM_KILLED = 3, /* it was only the process that ended: what is un-synced is all there, and still un-synced */
};

enum cdp_sim_call { /* kinds of calls, for faults and counts */
    CDP_SIM_ANY = 0, /* any of those below up to LIST_DIR */
    CDP_SIM_OPEN,    /* without CREATE */
    CDP_SIM_CREATE,
    CDP_SIM_PREAD,
    CDP_SIM_PWRITE,
    CDP_SIM_DATASYNC,
    CDP_SIM_ALLOCATE,
    CDP_SIM_TRUNCATE,
    CDP_SIM_PUNCH,
    CDP_SIM_SIZE,
    CDP_SIM_NEXT_DATA,
    CDP_SIM_LOCK,
    CDP_SIM_MAP,
    CDP_SIM_RENAME,
    CDP_SIM_UNLINK,
    CDP_SIM_MKDIR,
    CDP_SIM_RMDIR,
    CDP_SIM_SYNC_DIR,
    CDP_SIM_LIST_DIR,
    CDP_SIM_RANDOM,
    CDP_SIM_PAGES, /* a failing one gives NULL */
    CDP_SIM_N_CALLS,
};

/* An empty disk with a root directory. NULL: no memory. */
cdp_sim *cdp_sim_new(uint64_t seed);
void cdp_sim_free(cdp_sim *sim);
/* Valid until cdp_sim_free. */
const cdp_os *cdp_sim_os(cdp_sim *sim);

/* --- power --- */

/* Calls so far that change or sync something: CREATE, PWRITE, DATASYNC, ALLOCATE, TRUNCATE, PUNCH, RENAME, UNLINK,
 * MKDIR, RMDIR, SYNC_DIR; failed ones (but for misuse) and the one that the power cut hit included. */
uint64_t cdp_sim_calls(cdp_sim *sim);
/* Calls so far of one kind, counted in the same way. */
uint64_t cdp_sim_count(cdp_sim *sim, uint32_t call);
/* The n-th further call that changes or syncs something loses power: it and all later calls give -EIO until
 * cdp_sim_power_on. n = 0: now. UINT64_MAX: never (the default, and again after power_on). */
void cdp_sim_cut_at(cdp_sim *sim, uint64_t n);
int cdp_sim_powered(cdp_sim *sim);
/* Decides what survived; with the power still on it is cut first. All handles become invalid. 0, or -EINVAL. */
int cdp_sim_power_on(cdp_sim *sim, uint32_t mode);

/* --- faults --- */

/* All of these: the n-th further call (from 1) of that kind whose path contains `part` (NULL or "": any path; a handle
 * has the path that it was opened with, a rename the old one). 0, -EINVAL, or -ENOSPC where 32 are armed. */


/* That call and the `times` - 1 following ones fail with -err. A failing pwrite may have written a first part; a
 * failing datasync loses data, see 4. above. Other calls have no effect. */
int cdp_sim_fail(cdp_sim *sim, uint32_t call, const char *part, uint64_t n, uint64_t times, int err);
/* That pwrite reports success and does nothing, but for the file's size. */
int cdp_sim_lose_write(cdp_sim *sim, const char *part, uint64_t n);
/* That pwrite reports success and puts its data `delta` bytes further on (the size grows as it should). Where that is
 * before the file's begin, it is lost. */
int cdp_sim_misdirect_write(cdp_sim *sim, const char *part, uint64_t n, int64_t delta);
void cdp_sim_clear_faults(cdp_sim *sim);
/* Flip bit 0..7 of a byte on the medium. Reads see it unless that sector has un-synced changes. 0; -ENOENT; -EISDIR;
 * -EINVAL where the byte is beyond the durable size. */
int cdp_sim_flip(cdp_sim *sim, const char *path, uint64_t byte, uint32_t bit);
/* Capacity in bytes, counted in 4 KiB blocks of the current content and of what is reserved; at most 1 TiB. What is
 * beyond it fails with -ENOSPC, a pwrite after writing what fitted. */
int cdp_sim_set_space(cdp_sim *sim, uint64_t bytes);
uint64_t cdp_sim_space_used(cdp_sim *sim);
/* 0: punch gives -EOPNOTSUPP, next_data knows no holes. */
void cdp_sim_set_sparse(cdp_sim *sim, int on);

/* --- the rest --- */

/* The next now_ns gives `ns`, each further one `step` more (or less, not below 0). From the start: 2026-01-01, 1000. */
void cdp_sim_set_clock(cdp_sim *sim, uint64_t ns, int64_t step);
/* Handles, and maps, that were not given back. */
uint64_t cdp_sim_open_handles(cdp_sim *sim);
uint64_t cdp_sim_open_maps(cdp_sim *sim);
uint64_t cdp_sim_open_queues(cdp_sim *sim);
uint64_t cdp_sim_misuse(cdp_sim *sim);

#endif

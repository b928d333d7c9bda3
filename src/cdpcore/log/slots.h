/* The slots that one log has: memory in which frames are built, and from which what they hold is read for as long as it
 * stays there.
 *
 * A slot holds frames that lie one behind the other in one segment file, so it mirrors a range of locations
 * (base/format.h) and is found by location: a hash table by the range's first location, in steps of a slot's size. A
 * range crosses one border of these steps at most, so a look-up asks for two of them.
 *
 * Reading takes no lock. A reader pins a slot and checks that it is the one it looked for; a slot is reused only after
 * it was retired, which nobody can do while it is pinned, and after which nobody can pin it. That nothing was found is
 * certain where the table did not change meanwhile (`version`); else the look-up is repeated under the mutex.
 *
 * Invariants
 *  1. A slot's memory, first and sectors change only while it is OUT, but for `sectors`, which may become less.
 *  2. A slot becomes OUT with no pins, or gets no new ones and is reused when the last one is gone.
 *  3. A slot with a frame that is not written is never OUT: what has no other place is always found.
 *
 * Threading: functions want the log's io lock held, but for pin and unpin. */
#ifndef CDP_SLOTS_H
#define CDP_SLOTS_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include "system/os.h"

#define CDP_NO_SLOT 0xFFFFFFFFu
#define CDP_MAX_SLOTS 4096u
#define CDP_FRAMES_OPEN UINT64_MAX /* end_frame of a slot that may get more frames */

/* Reads that the memory's bound would have served, and the log's own slots did not: for so many it may take one more. A
 * slot holds 1,024 blocks of 4 KiB and takes 0.5 to 10 ms to prepare; such a read takes some 10 us less from memory. */
#define CDP_SLOT_MISSES 256u
#define CDP_SLOT_MARKS 64u

/* cdp_slot.state: readers that have it pinned, OUT, and how often it was read. */
#define CDP_SLOT_PINS 0x7FFFFFFFull
#define CDP_SLOT_OUT 0x80000000ull
#define CDP_SLOT_READ 0x100000000ull

typedef struct cdp_slot {
    uint8_t *mem;       /* slot_bytes; NULL: this entry is not in use */
    uint64_t state;     /* atomic */
    uint64_t first;     /* location of its first byte; atomic */
    uint64_t sectors;   /* how many locations from there on it mirrors; atomic */
    uint64_t end_frame; /* ring number one past its last frame */
    uint64_t seen;      /* state at the last look for idle slots, if there was one ... */
    uint8_t looked, idle; /* ... and: not used between the last two looks */
    uint32_t chain;     /* next of those with the same hash; atomic */
    uint32_t older, newer;
    uint32_t use;       /* counts the ranges that this entry has held */
} cdp_slot;

/* Rules that a test may break: see cdp_slots.broken. */
enum { CDP_BREAK_PINS = 1, CDP_BREAK_CHECK = 2, CDP_BREAK_BOUND = 4 };

typedef struct cdp_slots {
    /* constant after init */
    const cdp_os *os;
    pthread_mutex_t *mutex; /* the log's io lock */
    pthread_cond_t *freed;  /* signalled where waiting is set and a pin goes */
    const uint64_t *written; /* frames before this one are written; guarded by the mutex */
    uint64_t slot_bytes;
    uint32_t cap;           /* slots at most */
    uint32_t shift, mask;

    /* atomic */
    uint64_t version;       /* odd while the table changes */
    uint64_t recent;        /* what lies from this location on was written last, as much as the bound of all logs */
    uint64_t misses;        /* reads of that which found no slot, less those that were paid for */
    int waiting;            /* somebody waits for a pin to go, and has not opened a slot since */

    /* guarded by the mutex */
    cdp_slot *at;           /* cap entries; those never used are never touched, so they take no memory */
    uint32_t *heads;        /* of the chains; atomic; 0: none, else an entry's number + 1, as in cdp_slot.chain */
    uint32_t n;             /* entries in use; atomic: cdp_memory reads it without the mutex */
    uint32_t fresh, spare;  /* entries from `fresh` on were never used; unused ones before: from `spare` on by newer */
    uint32_t oldest, newest;
    uint64_t marks[CDP_SLOT_MARKS]; /* where some of the slots began, mark k in marks[k % CDP_SLOT_MARKS] */
    uint64_t n_marks, unmarked;     /* marks ever; slots since the last one */
    uint32_t broken;        /* CDP_BREAK_...: a slot is reused under its readers; a reader does not check what it has
                               pinned; the bound in bytes is ignored */

    /* guarded by the mutex of the cdp_memory that these belong to */
    struct cdp_slots *next, *prev;
    uint64_t asked;         /* the last search in which it was asked for a slot */
} cdp_slots;

/* 0, or -ENOMEM. */
int cdp_slots_init(cdp_slots *t, const cdp_os *os, pthread_mutex_t *mutex, pthread_cond_t *freed,
                   const uint64_t *written, uint64_t slot_bytes, uint32_t cap);
/* Nobody reads; frees all memory. */
void cdp_slots_destroy(cdp_slots *t);

/* An entry for memory `mem` that mirrors what begins at location `first`; the newest from now on. t->n < t->cap. */
uint32_t cdp_slots_open(cdp_slots *t, uint8_t *mem, uint64_t first);
/* A slot was opened there: keeps t->recent so that it was written `bound` slots ago, to a 64th. */
void cdp_slots_mark(cdp_slots *t, uint64_t first, uint64_t bound);
/* The newest slot mirrors so many sectors and gets no frame from ring number end_frame on. */
void cdp_slots_close(cdp_slots *t, uint64_t sectors, uint64_t end_frame);
/* Takes the memory of the oldest slot that is written and not pinned, and of no reader from now on; NULL: there is
 * none. claim: where only pins are in the way, the oldest that is written gets no new ones, and t->waiting is set. */
uint8_t *cdp_slots_take(cdp_slots *t, int claim);
/* Notes which slots were neither written nor read since the last look. Takes the memory of one of these; NULL: there is
 * none, or it is not written, or pinned. */
void cdp_slots_look(cdp_slots *t);
uint8_t *cdp_slots_take_idle(cdp_slots *t);
/* Entries with a frame that is not written. */
uint32_t cdp_slots_unwritten(const cdp_slots *t);

/* No lock held. The byte at `loc` if it is in a slot, pinned until unpin(token); NULL: it is not. */
uint8_t *cdp_slots_pin(cdp_slots *t, uint64_t loc, uint32_t *token);
void cdp_slots_unpin(cdp_slots *t, uint32_t token);

#endif

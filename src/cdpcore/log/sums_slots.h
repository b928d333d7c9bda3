/* Pages of checksums in memory: some pages of the tables of many files, found without a lock.
 *
 * A set of WAYS slots may hold a page. The pages of a file come into sets side by side, and those of the next file into
 * others, so that pages of files with few of them do not drive each other out. A slot keeps its memory: a reader that
 * comes while a page is exchanged reads some of both, notices it, and finds nothing.
 *
 * Threading: find and fetch: any thread, no lock. The others: one thread at a time. */
#ifndef CDP_SUMS_SLOTS_H
#define CDP_SUMS_SLOTS_H
#include <stdint.h>

#define CDP_SUMS_SETS 256u
#define CDP_SUMS_WAYS 4u

typedef struct cdp_sums_slot {
    uint64_t key;   /* atomic; 0: empty */
    uint32_t turn;  /* atomic: odd while the page is exchanged */
    uint32_t *sums; /* CDP_SUMS_PER_PAGE of them, atomic; set before the first key */
} cdp_sums_slot;

/* Rules that a test may break. SLOW breaks none: an exchange takes long. */
enum { CDP_BREAK_TURN = 1, CDP_BREAK_SLOW = 2 };

typedef struct cdp_sums_slots {
    cdp_sums_slot *slots; /* CDP_SUMS_SETS times CDP_SUMS_WAYS */
    uint32_t next;        /* the way that is exchanged next where a set is full */
    uint32_t broken;      /* CDP_BREAK_... */
} cdp_sums_slots;

/* 0, or -ENOMEM. */
int cdp_sums_slots_init(cdp_sums_slots *t);
void cdp_sums_slots_free(cdp_sums_slots *t);

/* Sums [first, first + n) of page `page` of file `number` to out; 0: they are not here. */
int cdp_sums_slots_find(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first, uint32_t n,
                        uint32_t *out);
/* The processor may fetch sum `first` of that page: it will be looked for soon. */
void cdp_sums_slots_fetch(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first);
/* From now on these are the sums of that page. 0, or -ENOMEM. */
int cdp_sums_slots_put(cdp_sums_slots *t, uint32_t number, uint64_t page, const uint32_t *sums);
/* The pages of that file are not here any more. */
void cdp_sums_slots_drop(cdp_sums_slots *t, uint32_t number);

#endif

/* What is read and then overwritten: the mark of whatever goes through a disk and changes all that it finds.
 *
 * Counted are 4 KiB blocks, and of those the watched ones: one in 16, by a hash of its number, the same ones always. A
 * read notes the watched blocks that it has in a table of stamps. A write or trim looks its own up, and takes the stamp
 * away, so a block counts once for each time that it was read. Some of the blocks are kept for a look at their content.
 *
 * The table has 32768 stamps of 4 bytes, each in the one place that its hash says: it remembers about 2 GiB of reads. A
 * new stamp takes the place of an old one; what is forgotten is not counted, and one in a million is mistaken.
 *
 * Threading: cdp_rewrites_read() from any thread, without a lock: stamps are single words, read and stored relaxed. All
 * else with the append lock held. */
#ifndef CDP_REWRITES_H
#define CDP_REWRITES_H
#include <stdint.h>

#define CDP_WATCHED_ONE_IN 16u
#define CDP_REWRITES_STAMPS 32768u
#define CDP_REWRITES_SAMPLES 64u        /* of each set */
#define CDP_REWRITES_BLOCK 4096u
#define CDP_REWRITES_TICKS 75u          /* so old a stamp may be */
#define CDP_REWRITES_MOST 16384u        /* blocks of a request that are looked at: its first */

enum cdp_rewrites_set {
    CDP_REWRITTEN,          /* written, and read shortly before */
    CDP_RETRIMMED,          /* trimmed or zeroed, and read shortly before */
    CDP_NEWLY_WRITTEN,      /* written, and not read */
    CDP_NEWLY_TRIMMED,      /* trimmed or zeroed, and not read; no samples of it are needed */
    CDP_REWRITES_SETS
};

struct cdp_rewrites_count {
    uint64_t n;             /* watched blocks */
    uint32_t stride;        /* every so many-th of them is a sample: the least power of two by which there is room */
    uint32_t n_samples;
    uint64_t samples[CDP_REWRITES_SAMPLES];     /* block numbers */
};

struct cdp_rewrites {
    uint32_t tick;          /* of the clock by which stamps grow old; relaxed */
    struct cdp_rewrites_count counts[CDP_REWRITES_SETS];
    uint32_t stamps[CDP_REWRITES_STAMPS];       /* 20 bits of the hash, 12 of the tick plus 1; 0: none; relaxed */
};

/* Sectors [start, end) were read, or written, or trimmed (trimmed: or zeroed). */
void cdp_rewrites_read(struct cdp_rewrites *r, uint64_t start, uint64_t end);
void cdp_rewrites_add(struct cdp_rewrites *r, int trimmed, uint64_t start, uint64_t end);
/* The counts begin anew; stamps stay. */
void cdp_rewrites_begin(struct cdp_rewrites *r, uint32_t tick);

/* How far the bytes of a block are from being equally frequent: chi-squared. About 255 where content is random, and
 * hardly ever more than 340 then. */
uint64_t cdp_unevenness(const uint8_t *block);
/* How many of the 256 units of 16 bytes (the least that a disk cipher changes) two blocks have in common. */
uint32_t cdp_units_alike(const uint8_t *a, const uint8_t *b);

#endif

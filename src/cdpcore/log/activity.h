/* What was done in a segment, by time and by place: counted as its records are appended, in bounded memory.
 *
 * Time is cut into intervals of one width, counted since 1970; only those in which something was done are kept. The
 * width is the least of CDP_ACTIVITY_WIDTHS by which there are at most CDP_ACTIVITY_CELLS of them: where there would be
 * more, the next width is taken, and cells are joined. Each width is a multiple of the one before it, so the result
 * does not depend on when that happened.
 *
 * How much of what was written held data before takes a look at the index. So some writes are noted for that: every
 * stride-th, with the least power of two by which they are at most CDP_ACTIVITY_SAMPLES.
 *
 * Threading: none but what the caller has. */
#ifndef CDP_ACTIVITY_H
#define CDP_ACTIVITY_H
#include <stdint.h>
#include "base/format.h"

#define CDP_ACTIVITY_SAMPLES 512u
#define CDP_ACTIVITY_WIDTHS 29u

struct cdp_activity_sample {
    uint64_t seq, ts_ns;
    uint64_t start, sectors;
};

struct cdp_activity {
    uint32_t n_cells, n_samples;
    uint32_t width;             /* index */
    uint32_t place_shift;       /* a place has 1 << place_shift sectors */
    uint32_t stride;            /* of the samples */
    uint32_t before;            /* overwritten is counted here: of before-images, descriptors say it */
    uint64_t n_writes;
    uint32_t recent;            /* the cell that got the last record */
    struct cdp_activity_cell cells[CDP_ACTIVITY_CELLS];     /* ascending by slot */
    struct cdp_activity_sample samples[CDP_ACTIVITY_SAMPLES];
};

/* Nothing yet, for a volume of so many sectors. */
void cdp_activity_start(struct cdp_activity *a, uint64_t volume_sectors, int before);
/* One record: its kind (the highest of its parts'), its range, how many of its sectors held data (of before-images). */
void cdp_activity_add(struct cdp_activity *a, uint64_t seq, uint64_t ts_ns, uint16_t kind, uint64_t start,
                      uint64_t sectors, uint64_t held);
/* Index `width` in ns; 0: there is none. */
uint64_t cdp_activity_width_ns(uint32_t width);

#endif

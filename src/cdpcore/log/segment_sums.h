/* The checksums of a sealed segment's blocks, a page of its table at a time: from the table, or, where there is none or
 * the page is damaged, from the frames, which have checksums of their own. */
#ifndef CDP_SEGMENT_SUMS_H
#define CDP_SEGMENT_SUMS_H
#include "base/status.h"
#include "system/os.h"

enum cdp_sums_source {
    CDP_SUMS_TABLE = 1,  /* of the segment file, or of the file beside it */
    CDP_SUMS_FRAMES = 2,
};

/* Page `page` of the table of segment `number`, whose file is fd, to sums[CDP_SUMS_PER_PAGE]. A block that its frame's
 * checksums call damaged gets one that it does not match. `beside`: path of the file with the table of a segment that
 * was sealed without one; need not exist. *source: where they come from. CDP_CORRUPT: neither end of the file is
 * valid. */
int cdp_segment_sums(const cdp_os *os, int fd, const char *beside, uint32_t number, uint64_t page, uint32_t *sums,
                     int *source, cdp_status *st);

#endif

/* A segment file's two ends: its header, and what sealing adds (directory of frames, trailer).
 *
 * Threading: none; the caller owns the buffers and the file. */
#ifndef CDP_SEGMENT_H
#define CDP_SEGMENT_H
#include "base/format.h"
#include "system/os.h"
#include "base/status.h"

/* From a block of CDP_BLOCK bytes. 1: valid and of a version that this code reads; 0: not. */
int cdp_segment_header_get(const uint8_t *block, struct cdp_segment_header *h);
int cdp_segment_trailer_get(const uint8_t *block, struct cdp_segment_trailer *t);

/* Make directory/N.log for h->segment: `bytes` allocated, header durable, the name too. Fills in what the caller need
 * not know (magic, version, a random salt). A failure leaves no file behind. The handle has the file's lock, where the
 * file system has locks: writes that are in flight when the process is killed go on in the kernel, and keep the lock
 * until they are done, so recovery can wait for them. */
int cdp_segment_create(const cdp_os *os, const char *directory, struct cdp_segment_header *h, uint64_t bytes,
                       int direct, int *fd, cdp_status *st);

#define CDP_SEGMENT_LEAST (64u << 10) /* the reserve as a segment: some events, directory and trailer */

/* As cdp_segment_create, of the preallocated file `from`, which is renamed: needs no space. *bytes: its size. `from`
 * stays what it was where that fails. */
int cdp_segment_of_reserve(const cdp_os *os, const char *from, const char *directory, struct cdp_segment_header *h,
                           int direct, uint64_t *bytes, int *fd, cdp_status *st);

/* Bytes that sealing adds to a segment whose last frame ends at `end`: directory, table of checksums, trailer. */
uint64_t cdp_segment_seal_bytes(uint64_t end, uint32_t n_frames);
/* Write them at `end`, cut the file behind them, sync. sums: of the file's blocks up to `end`; the first one, of the
 * header, does not count. `t` has salt, segment and the seq and time range; the rest is filled in. May be repeated
 * after a failure. */
int cdp_segment_seal(const cdp_os *os, int fd, uint64_t end, const struct cdp_frame_entry *entries, uint32_t n_frames,
                     const uint32_t *sums, struct cdp_segment_trailer *t, uint64_t *file_bytes, cdp_status *st);

/* Write bytes from..to of the file over themselves, and sync. After a sync that failed, pages of a file are in memory
 * and are not on the device, and the next sync finds nothing to do: only what is written again gets there. */
int cdp_segment_write_again(const cdp_os *os, int fd, uint64_t from, uint64_t to, cdp_status *st);

#endif

/* A disk as a front end sees it: the seam between a request source (NBD connection, replay) and the engine.
 *
 * This is the "native table" of an I/O path: a front end that holds one never touches Python. All functions are
 * thread-safe, run without the GIL, and take any byte offset and length; the front end has checked
 * offset + length <= size_bytes. They return CDP_OK or fill the status. A write, zero or trim has become visible to
 * every reader, in its place in the serial order, when the function returns; it is durable after flush, or at return
 * with CDP_FUA. */
#ifndef CDP_TARGET_H
#define CDP_TARGET_H
#include <stdint.h>
#include "base/stages.h"
#include "base/status.h"

enum cdp_request_flags {
    CDP_FUA = 1,  /* durable before return */
    CDP_HOLE = 2, /* zero(): leave a hole (trim); without it the range counts as allocated */
    CDP_META = 4, /* pwrite(): its sender calls it file system metadata; a history keeps that, all else ignores it */
    CDP_AGAIN = 8, /* acknowledged before, by a process that ended: no limit of the history refuses it */
};

enum cdp_extent_kind {
    CDP_EXTENT_DATA = 0,
    CDP_EXTENT_ZERO = 1, /* reads as zeros, allocated */
    CDP_EXTENT_HOLE = 2, /* reads as zeros, not allocated */
    CDP_EXTENT_UNKNOWN = 3, /* cannot be read: what was there is not known */
    CDP_EXTENT_CHANGED = 16, /* only of a cdp_map: written since its moment */
};

typedef struct cdp_extent {
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes, > 0 */
    uint32_t kind;   /* enum cdp_extent_kind */
    uint32_t reserved;
} cdp_extent;

typedef struct cdp_target {
    void *ctx;
    uint64_t size_bytes;
    uint32_t read_only; /* 1: pwrite, zero are refused with CDP_UNAVAILABLE/EROFS */
    uint32_t tells_seq; /* 1: the functions behind map() are there; 0: nothing is behind it */
    int (*pread)(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st);
    int (*pwrite)(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st);
    int (*zero)(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st);
    int (*flush)(void *ctx, cdp_status *st);
    /* Up to `cap` extents, adjacent, in order, from `offset`; they may end before offset + length, never after it.
     * cap >= 1 gives at least one. */
    int (*map)(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n, cdp_status *st);
    /* Where tells_seq: for a front end that outlives the process of its target, and gives a successor what that one
     * had not written. As pwrite and zero, with *seq set to the request's (last) record before that record can reach a
     * file or a reader, and to 0 where it failed. So whatever a successor finds in the log has its seq in *seq. */
    int (*pwrite_seq)(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *seq,
                      cdp_status *st);
    int (*zero_seq)(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *seq, cdp_status *st);
    uint64_t (*written_seq)(void *ctx);             /* records up to it are in files: they survive this process */
    /* Returns when written_seq is more than `beyond`, or all records before this call are in files; not synced. */
    int (*write_out)(void *ctx, uint64_t beyond, cdp_status *st);
    /* Looked at only where tells_seq, too; then it may be NULL. A hint that costs next to nothing: a request for this
     * range comes soon. A disk that must read before it writes can then read for many requests at once. The range need
     * not be valid. */
    void (*expect)(void *ctx, uint64_t offset, uint64_t length);
    /* Looked at only where tells_seq, too; then it may be NULL. As pread, for a caller that has other things to do
     * meanwhile: CDP_WOULD_WAIT where some of the range has to come from a device, and what `buf` holds then is not
     * said. Where it is there, pread, map and flush may be called from any number of threads, and may take as long as
     * the device does. */
    int (*pread_now)(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st);
    /* Looked at only where tells_seq, too; then it may be NULL. Where the front end counts its requests. */
    cdp_stages *stages;
} cdp_target;

/* A metadata context besides base:allocation: what else a front end may report of each range. As map() of a target, of
 * the same size; kinds are CDP_EXTENT_DATA and CDP_EXTENT_CHANGED. */
typedef struct cdp_map {
    void *ctx;
    int (*map)(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n, cdp_status *st);
} cdp_map;

#define CDP_MAP_CAPSULE "cdpcore.map" /* as CDP_TARGET_CAPSULE */

#define CDP_TARGET_CAPSULE "cdpcore.target" /* PyCapsule name; the capsule's context keeps the owner alive */
#endif

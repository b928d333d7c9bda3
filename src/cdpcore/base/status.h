/* How a nogil function reports failure: it returns one of these codes and fills the caller's struct.
 * Nothing here allocates. cdpcore.base.errors.check() is the one place that turns a status into an exception. */
#ifndef CDP_STATUS_H
#define CDP_STATUS_H
#include <stdint.h>

enum cdp_code {
    CDP_WOULD_WAIT = -1, /* of a call that may not wait for a device: it did nothing, and fills no status */
    CDP_OK = 0,
    CDP_INVALID = 1,     /* the request is wrong; nothing was changed */
    CDP_NOTFOUND = 2,    /* no such volume, image, bookmark, file */
    CDP_NOSPACE = 3,     /* device or a configured bound is full; nothing was lost */
    CDP_CORRUPT = 4,     /* bytes on disk fail their checksum or rule */
    CDP_UNAVAILABLE = 5, /* I/O error, busy, read-only */
    CDP_CLOSED = 6,      /* the object was closed */
    CDP_REFUSED = 7,     /* a point outside the window, or history that is pinned */
};

typedef struct cdp_status {
    int32_t code;         /* enum cdp_code */
    int32_t sys_errno;    /* errno of the failed call, or 0 */
    uint64_t offset;      /* byte offset the error is about (file or volume, as `where` says) */
    uint64_t expected;    /* e.g. checksum or length expected ... */
    uint64_t actual;      /* ... and found */
    const char *where;    /* static text, or text that the failed object keeps: what was being done */
} cdp_status;

/* Fill `st` (may not be NULL) and return `code`, so that a failing path reads `return cdp_fail(...)`. */
static inline int cdp_fail(cdp_status *st, int code, int sys_errno, uint64_t offset, const char *where)
{
    st->code = code;
    st->sys_errno = sys_errno;
    st->offset = offset;
    st->expected = st->actual = 0;
    st->where = where;
    return code;
}

/* As cdp_fail, for a failed OS call: negative errno -> code. */
int cdp_fail_os(cdp_status *st, int64_t neg_errno, uint64_t offset, const char *where);

#endif

#include <errno.h>
#include "base/status.h"

int cdp_fail_os(cdp_status *st, int64_t neg_errno, uint64_t offset, const char *where)
{
    int e = (int)-neg_errno;
    int code = e == ENOSPC || e == EDQUOT || e == EFBIG ? CDP_NOSPACE
             : e == ENOENT                              ? CDP_NOTFOUND
             : e == EINVAL                              ? CDP_INVALID
                                                        : CDP_UNAVAILABLE;
    return cdp_fail(st, code, e, offset, where);
}

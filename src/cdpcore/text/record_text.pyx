"""Records of the history as lines of JSON, for long ones: some ten million a second.

The rows are cdp.moments.records.RECORD; the lines are what json.dumps makes of cdp.views.RecordView.
Threading: any thread; the GIL is dropped.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strlen
from libc.time cimport gmtime_r, time_t, tm
from cdpcore.base.errors import InvalidRequest
from cdpcore.base.format cimport CDP_REC_FUA, CDP_REC_META

cdef enum:
    ROW_BYTES = 34
    LINE_BYTES = 288    # the longest: 20 digits four times, and a kind of 10 letters
    KINDS = 256
    STAMP_BYTES = 40

cdef uint64_t NS = 1000000000


cdef char *text(char *at, const char *what) noexcept nogil:
    cdef size_t n = strlen(what)
    memcpy(at, what, n)
    return at + n


cdef char *number(char *at, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int n = 0
    while True:
        digits[n] = <char>(48 + value % 10)
        value //= 10
        n += 1
        if not value:
            break
    while n:
        n -= 1
        at[0] = digits[n]
        at += 1
    return at


cdef char *nanoseconds(char *at, uint64_t rest) noexcept nogil:
    cdef int i
    for i in range(8, -1, -1):
        at[i] = <char>(48 + rest % 10)
        rest //= 10
    return at + 9


def ndjson(const uint8_t[::1] rows not None, kind_names: dict) -> bytes:
    """A line of JSON for each row of RECORD (34 bytes, packed). kind_names: number to name; a kind that is not there is
    its number, as text. Raises InvalidRequest where the bytes are no whole rows."""
    cdef size_t n = rows.shape[0] // ROW_BYTES, i
    cdef const char *names[KINDS]
    cdef char stamp[STAMP_BYTES]
    cdef list kept = [str(kind_names.get(kind, kind)).encode() for kind in range(KINDS)]
    cdef const uint8_t *row
    cdef uint64_t seq, ts_ns, offset, length, second = <uint64_t>-1
    cdef char *out
    cdef char *at
    cdef tm broken
    cdef time_t seconds
    if rows.shape[0] % ROW_BYTES:
        raise InvalidRequest(f"{rows.shape[0]} bytes of records", f"give whole rows of {ROW_BYTES}")
    if not n:
        return b""
    for i in range(KINDS):
        names[i] = <bytes>kept[i]
    out = at = <char *>malloc(n * LINE_BYTES)
    if out == NULL:
        raise MemoryError()
    try:
        with nogil:
            for i in range(n):
                row = &rows[i * ROW_BYTES]
                memcpy(&seq, row, 8)
                memcpy(&ts_ns, row + 8, 8)
                memcpy(&offset, row + 18, 8)
                memcpy(&length, row + 26, 8)
                if ts_ns // NS != second:       # many records share one
                    second = ts_ns // NS
                    seconds = <time_t>second
                    gmtime_r(&seconds, &broken)
                    snprintf(stamp, STAMP_BYTES, "%04d-%02d-%02dT%02d:%02d:%02d.", broken.tm_year + 1900,
                             broken.tm_mon + 1, broken.tm_mday, broken.tm_hour, broken.tm_min, broken.tm_sec)
                at = number(text(at, b'{"seq": '), seq)
                at = number(text(at, b', "ts_ns": '), ts_ns)
                at = nanoseconds(text(text(at, b', "time": "'), stamp), ts_ns % NS)
                at = text(at, b'Z", "kind": "')
                at = text(at, names[row[16]])
                at = text(at, b'", "fua": true' if row[17] & CDP_REC_FUA else b'", "fua": false')
                at = text(at, b', "meta": true' if row[17] & CDP_REC_META else b', "meta": false')
                at = number(text(at, b', "offset": '), offset)
                at = number(text(at, b', "length": '), length)
                at = text(at, b'}\n')
        return out[:at - out]
    finally:
        free(out)

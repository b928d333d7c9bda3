/* One record of a block trace, whatever its format: what every parser writes and every consumer reads.
 *
 * The layout is shared with NumPy (cdp.trace.model.RECORD); the assertions below and a test keep them equal.
 *
 * Invariants of a record that a parser has let through
 *  1. offset_bytes + length_bytes <= 2^63.
 *  2. FLUSH has offset 0 and length 0. A read or write of length 0 is legal (SPC has them).
 *  3. device is an index of the parser's own table (trace_devices.h). */
#ifndef CDP_TRACE_REC_H
#define CDP_TRACE_REC_H
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum cdp_trace_kind {
    CDP_TRACE_READ = 0,
    CDP_TRACE_WRITE = 1,
    CDP_TRACE_TRIM = 2,
    CDP_TRACE_ZERO = 3,
    CDP_TRACE_FLUSH = 4,
    CDP_TRACE_OTHER = 5, /* a request that the format does not let us name: counted, never guessed */
};

enum cdp_trace_flag {
    CDP_TRACE_FUA = 1,
    CDP_TRACE_PREFLUSH = 2,
    CDP_TRACE_SYNC = 4,
    CDP_TRACE_META = 8,
    CDP_TRACE_AHEAD = 16,
};

typedef struct cdp_trace_rec {
    uint64_t ts_ns;        /* since 1970 UTC, or since an arbitrary start, as the format's clock says */
    uint64_t offset_bytes;
    uint64_t length_bytes;
    uint64_t number;       /* line number (text) or record number (binary), from 1: for messages */
    uint64_t payload;      /* where the written data lies in the (uncompressed) source, bytes; 0: the trace has none */
    uint32_t device;
    uint8_t kind;          /* enum cdp_trace_kind */
    uint8_t flags;         /* enum cdp_trace_flag */
    uint16_t source;       /* index of the file, filled by the reader that merges files */
} cdp_trace_rec;

static_assert(sizeof(cdp_trace_rec) == 48, "record has no padding");
static_assert(offsetof(cdp_trace_rec, device) == 40 && offsetof(cdp_trace_rec, source) == 46, "layout as in NumPy");

#define CDP_TRACE_END ((uint64_t)1 << 63)      /* no byte at or beyond this */
#define CDP_TRACE_MAX_LINE ((size_t)1 << 20)   /* FIU with a hash per 512 bytes stays below this up to 8 MiB requests */

/* What a run over a piece of a trace ended with. Negative ones need the caller; the rest are ordinary. */
enum cdp_trace_step {
    CDP_TRACE_MORE = 0,     /* everything complete in the piece is consumed */
    CDP_TRACE_FULL = 1,     /* the output array is full */
    CDP_TRACE_DONE = 2,     /* the format itself says that the trace ends here */
    CDP_TRACE_BAD = -1,     /* stopped before a malformed line or record; the state says where and what was expected */
    CDP_TRACE_GROW = -2,    /* the device table needs room: cdp_trace_devices_grow(), then call again */
};

#endif

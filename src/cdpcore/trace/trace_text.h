/* Text traces: lines in, records out, without the GIL and without allocation.
 *
 * cdp_trace_text_run() is the only loop; a format is one function from a line to at most one record. A malformed line
 * either stops the run (`CDP_TRACE_BAD`, nothing of it consumed) or, with skip_bad, is counted; the first one is kept
 * for the message. Owner thread only. */
#ifndef CDP_TRACE_TEXT_H
#define CDP_TRACE_TEXT_H
#include "trace/trace_cursor.h"
#include "trace/trace_devices.h"
#include "trace/trace_rec.h"

enum cdp_trace_format { /* the numbers are shared with cdpcore.trace.parse */
    CDP_FMT_MSR = 0,
    CDP_FMT_SYSTOR = 1,
    CDP_FMT_ALIBABA = 2,
    CDP_FMT_TENCENT = 3,
    CDP_FMT_CLOUDPHYSICS = 4,
    CDP_FMT_SPC = 5,
    CDP_FMT_OWN = 6,
    CDP_FMT_FIU = 7,
    CDP_FMT_DISKSIM_NS = 8,
    CDP_FMT_DISKSIM_MS = 9,
    CDP_FMT_BLKREPLAY = 10,
    CDP_FMT_FIO = 11,
    CDP_FMT_BLKPARSE = 12,
    CDP_FMT_REPLAYER = 13,
    CDP_FMT_COLUMNS = 14,
    CDP_FMT_COUNT = 15,
};

/* Bits of block-layer actions, as in the binary format: 1 << what. */
#define CDP_ACT_Q (1u << 1)
#define CDP_ACT_D (1u << 7)
#define CDP_ACT_C (1u << 8)
#define CDP_ACT_I (1u << 12)

typedef struct cdp_trace_text {
    /* constant after init */
    int32_t format;
    int32_t skip_bad;
    uint32_t stages;          /* blkparse: actions that become records, of devices without a choice of their own */
    cdp_trace_devices *devices;
    const struct cdp_trace_columns *columns; /* of CDP_FMT_COLUMNS */
    cdp_trace_devices *census; /* blkparse: counts by device and stage, and each device's own stages; may be NULL */
    /* state across runs */
    uint64_t line;            /* lines consumed */
    uint64_t events;          /* well-formed data lines, records or not */
    uint64_t comments;        /* headers, '#' lines, preamble, summary, empty lines */
    uint64_t bad;
    uint64_t skipped;         /* events that are requests, but none that a record can say (fio: sync_file_range) */
    uint64_t clock_ns;        /* fio v2: sum of the waits so far */
    uint32_t header;          /* a header was met; fio: its version */
    uint32_t absolute;        /* own CSV: its clock is UTC */
    uint32_t separator;       /* of CDP_FMT_COLUMNS: a byte; 0: no line was seen */
    uint32_t summary;         /* blkparse: inside the summary */
    uint32_t in_long_line;    /* skip_bad: dropping the rest of a line above CDP_TRACE_MAX_LINE */
    /* the bad line of CDP_TRACE_BAD, or with skip_bad the first one */
    uint64_t bad_line, bad_column;
    const char *bad_expected;
    uint32_t bad_fields;      /* fields read before it went wrong; with skip_bad the largest such number */
    uint32_t bad_text_bytes;
    unsigned char bad_text[64]; /* what was found there: a copy, because with skip_bad the line is gone */
} cdp_trace_text;

enum cdp_line { CDP_LINE_BAD = 0, CDP_LINE_RECORD = 1, CDP_LINE_EVENT = 2, CDP_LINE_COMMENT = 3, CDP_LINE_GROW = 4 };

typedef enum cdp_line cdp_line_fn(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r);

/* The formats (trace_csv.c, trace_lines.c, trace_blkparse.c, trace_columns.c). The record comes zeroed but for its
 * number. */
cdp_line_fn cdp_line_msr, cdp_line_systor, cdp_line_alibaba, cdp_line_tencent, cdp_line_cloudphysics, cdp_line_spc;
cdp_line_fn cdp_line_own, cdp_line_fiu, cdp_line_disksim, cdp_line_blkreplay, cdp_line_fio, cdp_line_blkparse;
cdp_line_fn cdp_line_replayer, cdp_line_columns;

/* `text`: a piece of the trace that starts at a line's start. `final`: a last line without a newline is complete.
 * Fills out[0 .. cap) and sets *consumed (bytes, whole lines) and *produced. Returns enum cdp_trace_step. */
int cdp_trace_text_run(cdp_trace_text *t, const unsigned char *text, size_t n, int final, cdp_trace_rec *out,
                       size_t cap, size_t *consumed, size_t *produced);

/* Device of the record; LINE_GROW if the table needs room. Shared by the formats. */
static inline enum cdp_line text_device(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r, const unsigned char *name,
                                        size_t n, uint64_t number)
{
    if (n > CDP_TRACE_MAX_NAME) {
        cur_fail(c, name, "a device name of at most 1024 bytes");
        return CDP_LINE_BAD;
    }
    return cdp_trace_devices_find(t->devices, name, n, number, &r->device) ? CDP_LINE_RECORD : CDP_LINE_GROW;
}

/* Kind and flags from the letters that blkparse and the kernel print; `bytes` 0 makes FWS a flush. */
int cdp_trace_rwbs(const unsigned char *s, size_t n, uint64_t bytes, uint8_t *kind, uint8_t *flags);

/* SCSI operation code -> kind. */
uint8_t cdp_trace_scsi_kind(uint64_t op);

#endif

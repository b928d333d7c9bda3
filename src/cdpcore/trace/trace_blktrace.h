/* The binary format of blktrace(8): 48-byte events, each with pdu_len bytes after it; either byte order.
 *
 * One stage becomes records, as for the text of blkparse. Owner thread only; no allocation. */
#ifndef CDP_TRACE_BLKTRACE_H
#define CDP_TRACE_BLKTRACE_H
#include "trace/trace_devices.h"
#include "trace/trace_rec.h"

#define CDP_BLKTRACE_MAGIC 0x65617400u /* low byte: version */
#define CDP_BLKTRACE_VERSION 7u
#define CDP_BLKTRACE_HEAD 48u

typedef struct cdp_trace_blk {
    /* constant after init */
    int32_t skip_bad;
    uint32_t stages;        /* bits 1 << what, of devices without a choice of their own */
    cdp_trace_devices *devices;
    cdp_trace_devices *census; /* counts by device and stage, and each device's own stages; may be NULL */
    /* state across runs */
    uint64_t events;        /* all of them, notifications too */
    uint64_t bad;           /* places where events had to be searched again */
    uint64_t epoch_ns;      /* UTC of trace time 0, once a wall-clock event was met */
    uint32_t have_epoch;
    uint32_t swapped;       /* 0 not known yet, 1 as this machine, 2 the other order */
    uint32_t lost;          /* inside a damaged stretch: looking for the next magic */
    /* the bad event of CDP_TRACE_BAD: number from 1, and where in the piece */
    uint64_t bad_event, bad_at;
    const char *bad_expected;
} cdp_trace_blk;

/* As cdp_trace_text_run(). With `final`, a piece that ends inside an event is bad. */
int cdp_trace_blk_run(cdp_trace_blk *t, const unsigned char *p, size_t n, int final, cdp_trace_rec *out, size_t cap,
                      size_t *consumed, size_t *produced);

#endif

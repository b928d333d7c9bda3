/* The log of the kernel's dm-log-writes target and of QEMU's blklogwrites: every write with its data, in order.
 *
 * The walk reads entry sectors and steps over the data (only where the data lies is kept in the record), so it costs
 * the same for a log of 4 KiB writes as for one of 1 MiB writes. There is no time in the format: ts_ns is 0.
 * Owner thread only; no allocation. */
#ifndef CDP_TRACE_DMLOG_H
#define CDP_TRACE_DMLOG_H
#include "trace/trace_rec.h"

#define CDP_DMLOG_MAGIC 0x6a736677736872u
#define CDP_DMLOG_VERSION 1u
#define CDP_DMLOG_SUPER 28u /* u64 magic, version, entries; u32 sector size */
#define CDP_DMLOG_ENTRY 32u /* u64 sector, sectors, flags, data_len */

typedef struct cdp_trace_dmlog {
    /* from the super block */
    uint64_t entries;       /* its number of entries */
    uint32_t sector_bytes;  /* a power of two, 512 .. 2^23; 0: super block not read yet */
    /* state across runs */
    uint64_t done;          /* entries read */
    uint64_t position;      /* of the next byte to be given, in the uncompressed log */
    uint64_t marks;         /* entries that are marks: OTHER records without a range */
    /* the bad entry of CDP_TRACE_BAD */
    uint64_t bad_at;        /* byte in the log */
    const char *bad_expected;
} cdp_trace_dmlog;

/* Reads the super block from the first CDP_DMLOG_SUPER bytes. CDP_TRACE_MORE or CDP_TRACE_BAD. */
int cdp_trace_dmlog_super(cdp_trace_dmlog *t, const unsigned char *p);

/* As cdp_trace_text_run(), but *consumed may exceed n: the caller then skips so many bytes more.
 * CDP_TRACE_DONE after the last entry. The caller sees to a log that ends before that. */
int cdp_trace_dmlog_run(cdp_trace_dmlog *t, const unsigned char *p, size_t n, cdp_trace_rec *out, size_t cap,
                        uint64_t *consumed, size_t *produced);

#endif

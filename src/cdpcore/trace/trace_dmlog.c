/* See trace_dmlog.h. Layout: docs/traces.md. */
#include <string.h>

#include "trace/trace_dmlog.h"

enum { LOG_FLUSH = 1, LOG_FUA = 2, LOG_DISCARD = 4, LOG_MARK = 8, LOG_META = 16, LOG_ALL = 31 };

static uint64_t le(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static int bad(cdp_trace_dmlog *t, uint64_t at, const char *expected)
{
    t->bad_at = at;
    t->bad_expected = expected;
    return CDP_TRACE_BAD;
}

int cdp_trace_dmlog_super(cdp_trace_dmlog *t, const unsigned char *p)
{
    uint64_t sector = le(p + 24, 4);
    if (le(p, 8) != CDP_DMLOG_MAGIC)
        return bad(t, 0, "the magic 0x6a736677736872 of a write log");
    if (le(p + 8, 8) != CDP_DMLOG_VERSION)
        return bad(t, 8, "version 1");
    if (sector < 512 || sector > 1u << 23 || (sector & (sector - 1)))
        return bad(t, 24, "a sector size: a power of two from 512 to 8388608");
    t->entries = le(p + 16, 8);
    t->sector_bytes = (uint32_t)sector;
    return CDP_TRACE_MORE;
}

/* One entry at p -> *r and the bytes of data behind its sector. 0, or the text of what was expected. */
static const char *read_entry(const cdp_trace_dmlog *t, const unsigned char *p, cdp_trace_rec *r, uint64_t *data_bytes)
{
    uint64_t sector = le(p, 8), sectors = le(p + 8, 8), flags = le(p + 16, 8), data_len = le(p + 24, 8);
    uint64_t end = CDP_TRACE_END / t->sector_bytes;

    *data_bytes = 0;
    *r = (cdp_trace_rec){.number = t->done + 1};
    if (flags & ~(uint64_t)LOG_ALL)
        return "an entry: flags below 32";
    if (flags & LOG_MARK) {
        if (data_len > t->sector_bytes - CDP_DMLOG_ENTRY)
            return "a mark that fits in its sector";
        r->kind = CDP_TRACE_OTHER;
        return NULL;
    }
    if (sector >= end || sectors > end - sector)
        return "an entry: offset + size of at most 2^63 bytes";
    if (flags & LOG_META)
        r->flags |= CDP_TRACE_META;
    if (flags & LOG_FUA)
        r->flags |= CDP_TRACE_FUA;
    if (sectors == 0 && flags & LOG_FLUSH) {
        r->kind = CDP_TRACE_FLUSH;
        return NULL;
    }
    if (flags & LOG_FLUSH)
        r->flags |= CDP_TRACE_PREFLUSH;
    r->kind = flags & LOG_DISCARD ? CDP_TRACE_TRIM : CDP_TRACE_WRITE;
    r->offset_bytes = sector * t->sector_bytes;
    r->length_bytes = sectors * t->sector_bytes;
    if (r->kind == CDP_TRACE_WRITE && sectors) {
        *data_bytes = r->length_bytes;
        r->payload = t->position + t->sector_bytes;
        if (*data_bytes > CDP_TRACE_END - r->payload)
            return "an entry whose data ends below 2^63 bytes";
    }
    return NULL;
}

int cdp_trace_dmlog_run(cdp_trace_dmlog *t, const unsigned char *p, size_t n, cdp_trace_rec *out, size_t cap,
                        uint64_t *consumed, size_t *produced)
{
    uint64_t at = 0, data_bytes;
    size_t made = 0;
    int step = CDP_TRACE_DONE;

    while (t->done < t->entries) {
        step = made == cap ? CDP_TRACE_FULL : CDP_TRACE_MORE;
        if (step == CDP_TRACE_FULL || at > n || n - at < t->sector_bytes)
            break;
        const char *expected = read_entry(t, p + at, &out[made], &data_bytes);
        if (expected) {
            step = bad(t, t->position, expected);
            break;
        }
        t->marks += out[made].kind == CDP_TRACE_OTHER;
        made++;
        t->done++;
        at += t->sector_bytes + data_bytes;
        t->position += t->sector_bytes + data_bytes;
        step = CDP_TRACE_DONE;
    }
    *consumed = at;
    *produced = made;
    return step;
}

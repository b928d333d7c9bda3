/* See trace_blktrace.h. Layout: docs/traces.md. */
#include <string.h>

#include "trace/trace_blktrace.h"

/* Category bits, before their shift by 16. */
enum { TC_READ = 1, TC_WRITE = 2, TC_FLUSH = 4, TC_SYNC = 8, TC_PC = 0x200, TC_NOTIFY = 0x400, TC_AHEAD = 0x800,
       TC_META = 0x1000, TC_DISCARD = 0x2000, TC_FUA = 0x8000 };
enum { NOTIFY_CLOCK = 1 };

static uint16_t get16(const unsigned char *p, int swap)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return swap ? __builtin_bswap16(v) : v;
}

static uint32_t get32(const unsigned char *p, int swap)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return swap ? __builtin_bswap32(v) : v;
}

static uint64_t get64(const unsigned char *p, int swap)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return swap ? __builtin_bswap64(v) : v;
}

static int is_magic(uint32_t v)
{
    return v == (CDP_BLKTRACE_MAGIC | CDP_BLKTRACE_VERSION);
}

static int kind_of(uint32_t category, uint32_t bytes, cdp_trace_rec *r)
{
    int flush = (category & TC_FLUSH) != 0;
    if (category & TC_SYNC)
        r->flags |= CDP_TRACE_SYNC;
    if (category & TC_META)
        r->flags |= CDP_TRACE_META;
    if (category & TC_AHEAD)
        r->flags |= CDP_TRACE_AHEAD;
    if (flush && bytes == 0 && !(category & TC_DISCARD))
        return CDP_TRACE_FLUSH;
    if (!(category & TC_DISCARD) && !(category & TC_WRITE) && bytes == 0)
        return CDP_TRACE_OTHER;
    if (flush)
        r->flags |= CDP_TRACE_PREFLUSH;
    if (category & TC_FUA)
        r->flags |= CDP_TRACE_FUA;
    return category & TC_DISCARD ? CDP_TRACE_TRIM : category & TC_WRITE ? CDP_TRACE_WRITE : CDP_TRACE_READ;
}

/* A wall-clock notification: u32 sec, u32 nsec at the event's own time. */
static void note_clock(cdp_trace_blk *t, const unsigned char *p, uint16_t pdu, int swap)
{
    if (t->have_epoch || pdu < 8)
        return;
    uint64_t now = (uint64_t)get32(p + 48, swap) * 1000000000u + get32(p + 52, swap), at = get64(p + 8, swap);
    if (now >= at) {
        t->epoch_ns = now - at;
        t->have_epoch = 1;
    }
}

/* The event at p, whole, magic checked. 1 a record, 0 an event only, -1 its range is impossible, -2 no room. */
static int read_event(cdp_trace_blk *t, const unsigned char *p, uint16_t pdu, int swap, cdp_trace_rec *r)
{
    uint32_t action = get32(p + 28, swap), category = action >> 16, bytes = get32(p + 24, swap);
    uint32_t what = action & 0xff; /* 0x100: a cgroup id leads the pdu */
    if (category & TC_NOTIFY) {
        if (what == NOTIFY_CLOCK)
            note_clock(t, p, pdu, swap);
        return 0;
    }
    uint32_t bit = what < 32 ? 1u << what : 0, device = get32(p + 36, swap), stages = t->stages, counted = 0;
    uint64_t number = (uint64_t)(device >> 20) << 32 | (device & 0xfffff);
    int passthrough = (category & TC_PC) != 0;
    if (!bit)
        return 0;
    if (t->census && !cdp_trace_census_find(t->census, number, &counted, &stages))
        return -2;
    int is = !passthrough && bit & stages;
    if (is && !cdp_trace_devices_find(t->devices, NULL, 0, number, &r->device))
        return -2;
    if (t->census)
        cdp_trace_census_count(t->census, counted, passthrough ? 0 : bit);
    if (!is)
        return 0;
    uint64_t sector = get64(p + 16, swap);
    *r = (cdp_trace_rec){.ts_ns = get64(p + 8, swap), .number = t->events + 1, .device = r->device};
    r->kind = (uint8_t)kind_of(category, bytes, r);
    if (r->kind != CDP_TRACE_FLUSH && r->kind != CDP_TRACE_OTHER) {
        if (sector >= CDP_TRACE_END >> 9 || bytes > CDP_TRACE_END - (sector << 9))
            return -1;
        r->offset_bytes = sector << 9;
        r->length_bytes = bytes;
    }
    return 1;
}

static int bad(cdp_trace_blk *t, size_t at, const char *expected)
{
    if (!t->bad) {
        t->bad_event = t->events + 1;
        t->bad_at = at;
        t->bad_expected = expected;
    }
    return CDP_TRACE_BAD;
}

int cdp_trace_blk_run(cdp_trace_blk *t, const unsigned char *p, size_t n, int final, cdp_trace_rec *out, size_t cap,
                      size_t *consumed, size_t *produced)
{
    size_t at = 0, made = 0;
    int step = CDP_TRACE_MORE;
    const char *expected;

    while (at < n) {
        if (made == cap) {
            step = CDP_TRACE_FULL;
            break;
        }
        if (n - at < CDP_BLKTRACE_HEAD) {
            expected = "a whole event: 48 bytes and its pdu";
            if (final)
                goto wrong;
            break;
        }
        uint32_t magic = get32(p + at, 0);
        if (!t->swapped)
            t->swapped = is_magic(magic) ? 1 : is_magic(__builtin_bswap32(magic)) ? 2 : 0;
        int swap = t->swapped == 2;
        if (!is_magic(swap ? __builtin_bswap32(magic) : magic)) {
            expected = "an event: magic 0x65617407";
            goto wrong;
        }
        uint16_t pdu = get16(p + at + 46, swap);
        if (n - at < CDP_BLKTRACE_HEAD + (size_t)pdu) {
            expected = "a whole event: 48 bytes and its pdu";
            if (final)
                goto wrong;
            break;
        }
        t->lost = 0;
        int is = read_event(t, p + at, pdu, swap, &out[made]);
        if (is == -2) {
            step = CDP_TRACE_GROW;
            break;
        }
        if (is == -1) {
            expected = "offset + size of at most 2^63 bytes";
            if (!t->skip_bad) {
                step = bad(t, at, expected);
                break;
            }
            bad(t, at, expected);
            t->bad++;
        }
        made += is == 1;
        t->events++;
        at += CDP_BLKTRACE_HEAD + pdu;
        continue;
    wrong: /* events have no length to trust after damage: search byte by byte for the next magic */
        if (!t->lost || !t->skip_bad)
            step = bad(t, at, expected);
        if (!t->skip_bad)
            break;
        t->bad += !t->lost;
        t->lost = 1;
        step = CDP_TRACE_MORE;
        at++;
    }
    *consumed = at;
    *produced = made;
    return step;
}

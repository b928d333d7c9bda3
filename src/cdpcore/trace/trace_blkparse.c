/* The text that blkparse prints by default: events of the block layer, several for each request.
 *
 * One stage becomes records (t->stages, bits of actions); the other events are checked and counted. PC (passthrough)
 * commands have no sector and are events only. Layout: docs/traces.md. */
#include "trace/trace_text.h"

#define FIELD(call) do { if (!(call)) return CDP_LINE_BAD; } while (0)

#define HEAD "a blank: maj,min cpu seq sec.nsec pid action rwbs ..."
#define RWBS "RWBS letters: R, W, D, F, N, then any of F S M A B"
#define ACTION "an action: Q M F G S R D C P U UT I X B A or m"

int cdp_trace_rwbs(const unsigned char *s, size_t n, uint64_t bytes, uint8_t *kind, uint8_t *flags)
{
    unsigned char op = 0;
    int pre = 0, fua = 0, zero = 0;
    uint8_t f = 0;
    for (size_t i = 0; i < n; i++) {
        switch (s[i]) {
        case 'F':
            if (op && op != 'N')
                fua = 1;
            else
                pre = 1; /* before the operation, or a bare flush (FF: a flush request that also asks for a preflush) */
            break;
        case 'R': case 'W': case 'D': case 'N':
            if (op)
                return 0;
            op = s[i];
            break;
        case 'S': f |= CDP_TRACE_SYNC; break;
        case 'M': f |= CDP_TRACE_META; break;
        case 'A': f |= CDP_TRACE_AHEAD; break;
        case 'B': pre = fua = 1; break; /* barrier, before Linux 2.6.37: flush before, durable after */
        case 'Z': zero = 1; break;      /* write zeroes, recent kernels */
        case 'E': case 'U': break;      /* secure erase (after D), atomic write */
        default: return 0;
        }
    }
    if (!op && !pre)
        return 0;
    *flags = f;
    if (!op || op == 'N' || (op == 'W' && pre && bytes == 0)) {
        *kind = pre ? CDP_TRACE_FLUSH : CDP_TRACE_OTHER;
        return 1;
    }
    *kind = op == 'R' ? CDP_TRACE_READ : op == 'D' ? CDP_TRACE_TRIM : zero ? CDP_TRACE_ZERO : CDP_TRACE_WRITE;
    *flags |= (uint8_t)((pre ? CDP_TRACE_PREFLUSH : 0) | (fua ? CDP_TRACE_FUA : 0));
    return 1;
}

/* Bit of the action, 0 if there is no such action. The numbers are those of the binary format. */
static uint32_t action_bit(const unsigned char *s, size_t n)
{
    static const char LETTER[] = " QMFGSRDCPU IXBA"; /* 11 is UT, below */
    if (n == 1 && *s == 'm')
        return 1u << 31;
    if (n == 1 && *s == 'T')
        return 1u << 11;
    if (n == 2 && s[0] == 'U' && s[1] == 'T')
        return 1u << 11;
    if (n != 1 || *s == ' ' || !*s)
        return 0;
    const char *at = strchr(LETTER, *s);
    return at ? 1u << (at - LETTER) : 0;
}

/* "sector + nsectors", "[process]" (no data), for a completion also "sector [error]"; PC: "bytes (cdb) [process]". */
static int read_range(cdp_cur *c, cdp_trace_rec *r, uint32_t bit, int *passthrough)
{
    uint64_t off = 0, len = 0;
    cur_blanks(c);
    const unsigned char *off_at = c->p, *len_at = c->p;
    *passthrough = c->p < c->end && *c->p == '(';
    if (c->p >= c->end || (*c->p != '[' && *c->p != '(')) {
        if (!cur_u64(c, "sector + sectors, or [process]", &off))
            return 0;
        cur_blanks(c);
        if (c->p < c->end && *c->p == '+') {
            c->p++;
            cur_blanks(c);
            len_at = c->p;
            if (!cur_u64(c, "sectors: a whole number, not negative", &len))
                return 0;
        } else if (c->p >= c->end || (*c->p != '[' && *c->p != '(')) {
            return cur_fail(c, c->p, "'+ sectors' or '[' after the sector");
        } else if (*c->p == '(' || !(bit & (CDP_ACT_C | 1u << 6))) {
            *passthrough = 1; /* the number is a byte count */
        }
    }
    return *passthrough || cur_range(c, r, off_at, off, 9, len_at, len, 9);
}

static int begins(const cdp_cur *c, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(c->end - c->p) >= n && memcmp(c->p, text, n) == 0;
}

enum cdp_line cdp_line_blkparse(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *word, *rwbs;
    size_t word_n, rwbs_n;
    uint64_t major, minor, number, seconds, ns;
    int passthrough;

    cur_blanks(c);
    if (*c->p == '#')
        return CDP_LINE_COMMENT;
    if (begins(c, "CPU") || begins(c, "Total ("))
        t->summary = 1;
    if (t->summary) {
        const unsigned char *p = c->p;
        while (p < c->end && (unsigned)(*p - '0') < 10)
            p++;
        if (p == c->p || p == c->end || *p != ',') /* not "maj,min": the summary goes on */
            return CDP_LINE_COMMENT;
        t->summary = 0; /* another blkparse output follows */
    }
    FIELD(cur_u64(c, "maj,min", &major));
    FIELD(cur_sep(c, ',', "maj,min"));
    FIELD(cur_u64(c, "maj,min", &minor));
    if (major >> 32 || minor >> 32)
        FIELD(cur_fail(c, c->line, "major and minor below 2^32"));
    FIELD(cur_gap(c, HEAD));
    FIELD(cur_u64(c, "cpu: a whole number", &number));
    FIELD(cur_gap(c, HEAD));
    FIELD(cur_u64(c, "sequence: a whole number", &number));
    FIELD(cur_gap(c, HEAD));
    const unsigned char *time_at = c->p;
    FIELD(cur_u64(c, "time: seconds.nanoseconds", &seconds));
    FIELD(cur_sep(c, '.', "time: seconds.nanoseconds"));
    const unsigned char *ns_at = c->p;
    FIELD(cur_u64(c, "nine digits of nanoseconds", &ns));
    if (c->p - ns_at != 9)
        FIELD(cur_fail(c, ns_at, "nine digits of nanoseconds"));
    if (seconds > UINT64_MAX / 1000000000u - 1)
        FIELD(cur_fail(c, time_at, "a time below 2^64 ns"));
    FIELD(cur_gap(c, HEAD));
    FIELD(cur_u64(c, "pid: a whole number", &number));
    FIELD(cur_gap(c, HEAD));
    FIELD(cur_token(c, ACTION, &word, &word_n));
    uint32_t bit = action_bit(word, word_n);
    if (!bit)
        FIELD(cur_fail(c, word, ACTION));
    if (bit >> 31) /* message: free text follows */
        return CDP_LINE_EVENT;
    FIELD(cur_gap(c, RWBS));
    FIELD(cur_token(c, RWBS, &rwbs, &rwbs_n));
    const uint32_t BARE = 1u << 9 | 1u << 10 | 1u << 11 | 1u << 13 | 1u << 15;
    if (bit & BARE) { /* plug, unplug, unplug by timer, split, remap: nothing that could be a request */
        if (!cdp_trace_rwbs(rwbs, rwbs_n, 1, &r->kind, &r->flags))
            FIELD(cur_fail(c, rwbs, RWBS));
        return CDP_LINE_EVENT;
    }
    FIELD(read_range(c, r, bit, &passthrough));
    if (!cdp_trace_rwbs(rwbs, rwbs_n, r->length_bytes, &r->kind, &r->flags))
        FIELD(cur_fail(c, rwbs, RWBS));
    uint32_t stages = t->stages, counted = 0;
    number = major << 32 | minor;
    if (t->census && !cdp_trace_census_find(t->census, number, &counted, &stages))
        return CDP_LINE_GROW;
    enum cdp_line is = CDP_LINE_EVENT;
    if (!passthrough && bit & stages)
        is = text_device(t, c, r, NULL, 0, number);
    if (t->census && is != CDP_LINE_GROW)
        cdp_trace_census_count(t->census, counted, passthrough ? 0 : bit);
    if (is != CDP_LINE_RECORD)
        return is;
    r->ts_ns = seconds * 1000000000u + ns;
    if (r->kind == CDP_TRACE_FLUSH || r->kind == CDP_TRACE_OTHER)
        r->offset_bytes = r->length_bytes = 0;
    return CDP_LINE_RECORD;
}

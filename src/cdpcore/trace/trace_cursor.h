/* Reading fields of one text line: whole numbers, exact decimal times, words, separators.
 *
 * Every function returns 1, or 0 with `expected` set and `p` on the first byte of what was wrong, so that the caller's
 * column is right. Nothing reads at or beyond `end`. No floating point anywhere: a timestamp is exact or refused.
 * Inlined into the line parsers (trace_csv.c, trace_lines.c, trace_blkparse.c). Any thread. */
#ifndef CDP_TRACE_CURSOR_H
#define CDP_TRACE_CURSOR_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "trace/trace_rec.h"

typedef struct cdp_cur {
    const unsigned char *p, *end, *line;
    const char *expected;
    uint32_t fields; /* taken so far: how far a wrong line got, which is how detection distinguishes formats */
    unsigned char comma; /* between the fields of a CSV format: ',', or '\t' in a line without commas */
} cdp_cur;

static inline int cur_fail(cdp_cur *c, const unsigned char *at, const char *expected)
{
    c->p = at;
    c->expected = expected;
    return 0;
}

static inline void cur_blanks(cdp_cur *c)
{
    while (c->p < c->end && (*c->p == ' ' || (*c->p == '\t' && c->comma != '\t')))
        c->p++;
}

static inline int cur_digit(const cdp_cur *c)
{
    return c->p < c->end && (unsigned)(*c->p - '0') < 10;
}

/* [blanks][+]digits -> v. Refuses a sign '-', no digits, and anything above 2^64 - 1. */
static inline int cur_u64(cdp_cur *c, const char *expected, uint64_t *v)
{
    cur_blanks(c);
    const unsigned char *at = c->p;
    if (c->p < c->end && *c->p == '+')
        c->p++;
    if (!cur_digit(c))
        return cur_fail(c, at, expected);
    uint64_t n = 0;
    const unsigned char *start = c->p;
    while (cur_digit(c)) {
        unsigned d = *c->p - '0';
        if (c->p - start >= 18) { /* 10^18 - 1 fits in any case */
            if (n > (UINT64_MAX - d) / 10)
                return cur_fail(c, at, expected);
        }
        n = n * 10 + d;
        c->p++;
    }
    c->fields++;
    *v = n;
    return 1;
}

/* [blanks][0x]hex digits -> v. */
static inline int cur_hex(cdp_cur *c, const char *expected, uint64_t *v)
{
    cur_blanks(c);
    const unsigned char *at = c->p;
    if (c->end - c->p > 2 && c->p[0] == '0' && (c->p[1] | 32) == 'x')
        c->p += 2;
    uint64_t n = 0;
    int digits = 0;
    for (; c->p < c->end; c->p++, digits++) {
        unsigned ch = *c->p, low = ch | 32;
        unsigned d = ch - '0' < 10 ? ch - '0' : low - 'a' < 6 ? low - 'a' + 10 : 16;
        if (d == 16)
            break;
        if (n >> 60)
            return cur_fail(c, at, expected);
        n = n << 4 | d;
    }
    if (!digits)
        return cur_fail(c, at, expected);
    c->fields++;
    *v = n;
    return 1;
}

/* A decimal of a unit of 10^scale ns (9: seconds, 6: ms) -> ns, exactly; digits finer than 1 ns are dropped. */
static inline int cur_time(cdp_cur *c, unsigned scale, const char *expected, uint64_t *ns)
{
    cur_blanks(c);
    const unsigned char *at = c->p;
    if (c->p < c->end && *c->p == '+')
        c->p++;
    uint64_t whole = 0, unit = 1, frac = 0;
    for (unsigned i = 0; i < scale; i++)
        unit *= 10;
    int digits = 0;
    for (; cur_digit(c); c->p++, digits++) {
        unsigned d = *c->p - '0';
        if (whole > (UINT64_MAX - d) / 10)
            return cur_fail(c, at, expected);
        whole = whole * 10 + d;
    }
    if (c->p < c->end && *c->p == '.') {
        uint64_t step = unit;
        for (c->p++; cur_digit(c); c->p++, digits++) {
            step /= 10;
            frac += step * (*c->p - '0');
        }
    }
    if (!digits || whole > (UINT64_MAX - frac) / unit)
        return cur_fail(c, at, expected);
    c->fields++;
    *ns = whole * unit + frac;
    return 1;
}

/* [blanks]comma, or the tab in its place */
static inline int cur_comma(cdp_cur *c, const char *expected)
{
    cur_blanks(c);
    if (c->p >= c->end || *c->p != c->comma)
        return cur_fail(c, c->p, expected);
    c->p++;
    return 1;
}

/* [blanks]sep */
static inline int cur_sep(cdp_cur *c, char sep, const char *expected)
{
    cur_blanks(c);
    if (c->p >= c->end || *c->p != (unsigned char)sep)
        return cur_fail(c, c->p, expected);
    c->p++;
    return 1;
}

/* At least one blank, and something after the blanks. */
static inline int cur_gap(cdp_cur *c, const char *expected)
{
    const unsigned char *at = c->p;
    cur_blanks(c);
    if (c->p == at || c->p >= c->end)
        return cur_fail(c, c->p, expected);
    return 1;
}

/* [blanks]bytes up to `sep` or the end, trailing blanks dropped; may not be empty. */
static inline int cur_word(cdp_cur *c, unsigned char sep, const char *expected, const unsigned char **word, size_t *n)
{
    cur_blanks(c);
    const unsigned char *at = c->p, *stop = at;
    while (stop < c->end && *stop != sep)
        stop++;
    c->p = stop;
    while (stop > at && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    if (stop == at)
        return cur_fail(c, at, expected);
    c->fields++;
    *word = at;
    *n = (size_t)(stop - at);
    return 1;
}

/* [blanks]non-blank bytes; may not be empty. */
static inline int cur_token(cdp_cur *c, const char *expected, const unsigned char **word, size_t *n)
{
    cur_blanks(c);
    const unsigned char *at = c->p;
    while (c->p < c->end && *c->p != ' ' && *c->p != '\t')
        c->p++;
    if (c->p == at)
        return cur_fail(c, at, expected);
    c->fields++;
    *word = at;
    *n = (size_t)(c->p - at);
    return 1;
}

/* Nothing but blanks left. */
static inline int cur_end(cdp_cur *c, const char *expected)
{
    cur_blanks(c);
    return c->p >= c->end ? 1 : cur_fail(c, c->p, expected);
}

static inline int cur_is(const unsigned char *word, size_t n, const char *text)
{
    return n == strlen(text) && memcmp(word, text, n) == 0;
}

/* Units of 2^shift bytes -> the record's range, checked (invariant 1 of trace_rec.h). */
static inline int cur_range(cdp_cur *c, cdp_trace_rec *r, const unsigned char *off_at, uint64_t off, unsigned off_shift,
                            const unsigned char *len_at, uint64_t len, unsigned len_shift)
{
    if (off >= CDP_TRACE_END >> off_shift)
        return cur_fail(c, off_at, "an offset below 2^63 bytes");
    if (len > CDP_TRACE_END >> len_shift)
        return cur_fail(c, len_at, "a size of at most 2^63 bytes");
    r->offset_bytes = off << off_shift;
    r->length_bytes = len << len_shift;
    if (r->length_bytes > CDP_TRACE_END - r->offset_bytes)
        return cur_fail(c, len_at, "offset + size of at most 2^63 bytes");
    return 1;
}

#endif

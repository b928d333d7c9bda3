/* Lines of a table that the user describes. Fields lie between commas, semicolons, tabs or bars, whichever the first
 * line has, else between blanks; one may be in double quotes. */
#include "trace/trace_columns.h"
#include "trace/trace_text.h"

#define FIELD(call) do { if (!(call)) return CDP_LINE_BAD; } while (0)

typedef struct field {
    const unsigned char *p, *end;
} field;

static int is_blank(unsigned char ch)
{
    return ch == ' ' || ch == '\t';
}

static unsigned char separator_of(const cdp_cur *c)
{
    for (const char *s = "\t;,|"; *s; s++)
        if (memchr(c->p, *s, (size_t)(c->end - c->p)))
            return (unsigned char)*s;
    return ' ';
}

/* The next field, without blanks and quotes around it. 0: there is none. */
static int next_field(cdp_cur *c, unsigned char separator, field *f)
{
    if (c->p > c->end)
        return 0;
    const unsigned char *p = c->p;
    while (p < c->end && is_blank(*p) && *p != separator)
        p++;
    if (separator == ' ') { /* any number of blanks */
        while (p < c->end && is_blank(*p))
            p++;
        if (p == c->end)
            return 0;
    }
    const unsigned char *start = p;
    int quoted = p < c->end && *p == '"';
    if (quoted) {
        const unsigned char *quote = memchr(p + 1, '"', (size_t)(c->end - p - 1));
        quoted = quote != NULL;
        p = quoted ? quote : p;
    }
    while (p < c->end && *p != separator && !(separator == ' ' && *p == '\t'))
        p++;
    const unsigned char *stop = p;
    while (stop > start && is_blank(stop[-1]))
        stop--;
    if (quoted && stop[-1] == '"') {
        start++;
        stop--;
    }
    *f = (field){start, stop};
    c->p = p + 1; /* beyond the end after the last one */
    return 1;
}

/* Takes what a number was not understood in, for the message. */
static int number_of(cdp_cur *c, field f, const char *expected, uint64_t *v)
{
    cdp_cur in = {f.p, f.end, c->line, NULL, 0, ','};
    if (cur_u64(&in, expected, v) && cur_end(&in, expected))
        return 1;
    return cur_fail(c, f.p, expected);
}

static int kind_of(const cdp_trace_columns *is, field f, uint8_t *kind)
{
    size_t n = (size_t)(f.end - f.p);
    for (uint32_t i = 0; i < is->words; i++) {
        if (n != is->word_bytes[i])
            continue;
        size_t at = 0;
        while (at < n && (f.p[at] - 'A' < 26u ? f.p[at] | 32 : f.p[at]) == (unsigned char)is->word[i][at])
            at++;
        if (at == n) {
            *kind = is->word_kind[i];
            return 1;
        }
    }
    return 0;
}

static int range_of(cdp_cur *c, field f, uint64_t unit, const char *expected, uint64_t *bytes)
{
    uint64_t n = 0;
    if (!number_of(c, f, expected, &n))
        return 0;
    if (n > CDP_TRACE_END / unit)
        return cur_fail(c, f.p, "an offset or a size of at most 2^63 bytes");
    *bytes = n * unit;
    return 1;
}

enum cdp_line cdp_line_columns(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const cdp_trace_columns *is = t->columns;
    field none = {c->line, c->line}, time = none, op = none, device = none, offset = none, size = none, f;

    if (*c->p == '#')
        return CDP_LINE_COMMENT;
    if (!t->separator)
        t->separator = separator_of(c);
    for (uint32_t i = 1; i <= is->last; i++) {
        if (!next_field(c, t->separator, &f))
            FIELD(cur_fail(c, c->end, "as many columns as --columns names"));
        if (i == is->time)
            time = f;
        if (i == is->op)
            op = f;
        if (i == is->device)
            device = f;
        if (i == is->offset)
            offset = f;
        if (i == is->size)
            size = f;
    }
    if (is->time) {
        const char *expected = "time: a number with or without decimals, not negative and not too large for its unit";
        cdp_cur in = {time.p, time.end, c->line, NULL, 0, ','};
        if (!cur_time(&in, is->time_scale, expected, &r->ts_ns) || !cur_end(&in, expected) ||
            r->ts_ns < is->time_base_ns)
            FIELD(cur_fail(c, time.p, expected));
        r->ts_ns -= is->time_base_ns;
    }
    r->kind = (uint8_t)is->kind;
    if (is->op && !kind_of(is, op, &r->kind))
        FIELD(cur_fail(c, op.p, "op: a word for an operation (more are named so: op=N:WORD=write)"));
    if (r->kind != CDP_TRACE_FLUSH) {
        uint64_t at = 0, length = 0;
        FIELD(range_of(c, offset, is->offset_unit_bytes, "offset: a whole number, not negative", &at));
        FIELD(range_of(c, size, is->size_unit_bytes, "size: a whole number, not negative", &length));
        FIELD(cur_range(c, r, offset.p, at, 0, size.p, length, 0));
    }
    if (is->device && device.p == device.end)
        FIELD(cur_fail(c, device.p, "device: a name"));
    return text_device(t, c, r, device.p, (size_t)(device.end - device.p), 0);
}

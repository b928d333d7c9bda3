/* See trace_text.h. The loop over lines. */
#include <string.h>

#include "trace/trace_text.h"

static cdp_line_fn *const LINE_FN[CDP_FMT_COUNT] = {
    [CDP_FMT_MSR] = cdp_line_msr,
    [CDP_FMT_SYSTOR] = cdp_line_systor,
    [CDP_FMT_ALIBABA] = cdp_line_alibaba,
    [CDP_FMT_TENCENT] = cdp_line_tencent,
    [CDP_FMT_CLOUDPHYSICS] = cdp_line_cloudphysics,
    [CDP_FMT_SPC] = cdp_line_spc,
    [CDP_FMT_OWN] = cdp_line_own,
    [CDP_FMT_FIU] = cdp_line_fiu,
    [CDP_FMT_DISKSIM_NS] = cdp_line_disksim,
    [CDP_FMT_DISKSIM_MS] = cdp_line_disksim,
    [CDP_FMT_BLKREPLAY] = cdp_line_blkreplay,
    [CDP_FMT_FIO] = cdp_line_fio,
    [CDP_FMT_BLKPARSE] = cdp_line_blkparse,
    [CDP_FMT_REPLAYER] = cdp_line_replayer,
    [CDP_FMT_COLUMNS] = cdp_line_columns,
};

static void note_bad(cdp_trace_text *t, const cdp_cur *c)
{
    if (c->fields > t->bad_fields)
        t->bad_fields = c->fields;
    if (t->bad)
        return;
    t->bad_line = t->line + 1;
    t->bad_column = (uint64_t)(c->p - c->line) + 1;
    t->bad_expected = c->expected ? c->expected : "a record";
    size_t n = (size_t)(c->end - c->p);
    t->bad_text_bytes = (uint32_t)(n < sizeof t->bad_text ? n : sizeof t->bad_text);
    memcpy(t->bad_text, c->p, t->bad_text_bytes);
}

static int is_blank(const cdp_cur *c)
{
    const unsigned char *p = c->p;
    while (p < c->end && (*p == ' ' || *p == '\t'))
        p++;
    return p == c->end;
}

/* A first line that names the columns, whatever the names: a '#', or three or more fields of which none begins like a
 * number. Asked only of a line that the format does not understand; formats that need a certain first line have
 * none. */
static int is_heading(const cdp_trace_text *t, const cdp_cur *c)
{
    if (t->line || t->format == CDP_FMT_FIO || t->format == CDP_FMT_OWN || t->format == CDP_FMT_BLKREPLAY)
        return 0;
    const unsigned char *p = c->line;
    if (*p == '#')
        return 1;
    unsigned fields = 0, inside = 0;
    for (; p < c->end; p++) {
        int separator = *p == ',' || *p == ';' || *p == '|' || *p == '\t' || *p == ' ';
        if (!separator && !inside) {
            if ((unsigned)((*p | 32) - 'a') >= 26 && *p != '"' && *p != '_' && *p < 128)
                return 0;
            fields++;
        }
        inside = !separator;
    }
    return fields >= 3;
}

int cdp_trace_text_run(cdp_trace_text *t, const unsigned char *text, size_t n, int final, cdp_trace_rec *out,
                       size_t cap, size_t *consumed, size_t *produced)
{
    cdp_line_fn *line_fn = LINE_FN[t->format];
    const unsigned char *p = text, *stop = text + n;
    size_t made = 0;
    int step = CDP_TRACE_MORE;

    if (t->in_long_line && n) { /* the rest of a line that was given up */
        const unsigned char *newline = memchr(p, '\n', n);
        p = newline ? newline + 1 : stop;
        if (newline || final) {
            t->in_long_line = 0;
            t->line++;
        }
    }
    while (p < stop) {
        if (made == cap) {
            step = CDP_TRACE_FULL;
            break;
        }
        const unsigned char *newline = memchr(p, '\n', (size_t)(stop - p));
        if (!newline && !final && (size_t)(stop - p) <= CDP_TRACE_MAX_LINE)
            break;
        const unsigned char *next = newline ? newline + 1 : stop;
        cdp_cur c = {p, newline ? newline : stop, p, NULL, 0, ','};
        if (c.end > p && c.end[-1] == '\r')
            c.end--;
        if (t->format <= CDP_FMT_OWN && !memchr(p, ',', (size_t)(c.end - p)))
            c.comma = '\t';
        cdp_trace_rec r = {.number = t->line + 1};
        enum cdp_line is;
        if (c.end - p > (ptrdiff_t)CDP_TRACE_MAX_LINE) {
            cur_fail(&c, p + CDP_TRACE_MAX_LINE, "a line of at most 1 MiB");
            is = CDP_LINE_BAD;
        } else if (is_blank(&c)) {
            is = CDP_LINE_COMMENT;
        } else {
            is = line_fn(t, &c, &r);
            if (is == CDP_LINE_BAD && is_heading(t, &c))
                is = CDP_LINE_COMMENT;
        }
        if (is == CDP_LINE_RECORD) {
            out[made++] = r;
            t->events++;
        } else if (is == CDP_LINE_EVENT) {
            t->events++;
        } else if (is == CDP_LINE_COMMENT) {
            t->comments++;
        } else if (is == CDP_LINE_GROW) {
            step = CDP_TRACE_GROW;
            break;
        } else {
            note_bad(t, &c);
            if (!t->skip_bad) {
                step = CDP_TRACE_BAD;
                break;
            }
            t->bad++;
            if (!newline && !final) {
                t->in_long_line = 1;
                p = stop;
                break;
            }
        }
        t->line++;
        p = next;
    }
    *consumed = (size_t)(p - text);
    *produced = made;
    return step;
}

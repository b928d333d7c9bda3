/* The blank-separated text formats but blkparse: FIU, DiskSim, replayer, blkreplay, fio iolog.
 * Field tables: docs/traces.md. */
#include "trace/trace_text.h"

#define FIELD(call) do { if (!(call)) return CDP_LINE_BAD; } while (0)

#define FIU_FIELDS "a blank: 9 fields ts_ns pid process lba size_sectors W|R major minor md5"

/* The process name is the only field that may hold blanks: what lies between the second field and the last six. */
enum cdp_line cdp_line_fiu(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *end = c->end, *tail[6], *word, *off_at, *len_at;
    size_t word_n;
    uint64_t pid, off, len, major, minor;

    FIELD(cur_u64(c, "ts_ns: a whole number of nanoseconds", &r->ts_ns));
    FIELD(cur_gap(c, FIU_FIELDS));
    FIELD(cur_u64(c, "pid: a whole number", &pid));
    FIELD(cur_gap(c, FIU_FIELDS));
    const unsigned char *process = c->p, *at = end;
    for (int i = 5; i >= 0; i--) {
        while (at > process && (at[-1] == ' ' || at[-1] == '\t'))
            at--;
        while (at > process && at[-1] != ' ' && at[-1] != '\t')
            at--;
        if (at == process)
            FIELD(cur_fail(c, end, FIU_FIELDS));
        tail[i] = at;
    }
    c->fields++;
    c->p = off_at = tail[0];
    FIELD(cur_u64(c, "lba: a whole number of sectors, not negative", &off));
    FIELD(cur_gap(c, FIU_FIELDS));
    len_at = c->p;
    FIELD(cur_u64(c, "size: a whole number of sectors, not negative", &len));
    FIELD(cur_gap(c, FIU_FIELDS));
    FIELD(cur_token(c, "W or R", &word, &word_n));
    if (word_n != 1 || (*word != 'W' && *word != 'R'))
        FIELD(cur_fail(c, word, "W or R"));
    r->kind = *word == 'W' ? CDP_TRACE_WRITE : CDP_TRACE_READ;
    FIELD(cur_u64(c, "major: a whole number", &major));
    FIELD(cur_gap(c, FIU_FIELDS));
    FIELD(cur_u64(c, "minor: a whole number", &minor));
    FIELD(cur_gap(c, FIU_FIELDS));
    FIELD(cur_token(c, "md5", &word, &word_n));
    for (size_t i = 0; i < word_n; i++) {
        unsigned ch = word[i], low = ch | 32;
        if (ch - '0' >= 10 && low - 'a' >= 6)
            FIELD(cur_fail(c, word + i, "md5: hexadecimal digits"));
    }
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 9));
    if (major >> 32 || minor >> 32)
        FIELD(cur_fail(c, tail[3], "major and minor below 2^32"));
    return text_device(t, c, r, NULL, 0, major << 32 | minor);
}

#define DISKSIM_FIELDS "a blank: 5 fields time device lba sectors flags"

enum cdp_line cdp_line_disksim(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *off_at, *len_at;
    uint64_t device, off, len, flags;

    if (t->format == CDP_FMT_DISKSIM_NS) {
        FIELD(cur_u64(c, "time: a whole number of nanoseconds", &r->ts_ns));
        if (c->p < c->end && *c->p == '.')
            FIELD(cur_fail(c, c->p, "a whole number of nanoseconds, as the file began (disksim-ms has decimals)"));
    } else {
        FIELD(cur_time(c, 6, "time: milliseconds, decimals allowed, not negative", &r->ts_ns));
    }
    FIELD(cur_gap(c, DISKSIM_FIELDS));
    FIELD(cur_u64(c, "device: a whole number", &device));
    FIELD(cur_gap(c, DISKSIM_FIELDS));
    off_at = c->p;
    FIELD(cur_u64(c, "lba: a whole number of sectors, not negative", &off));
    FIELD(cur_gap(c, DISKSIM_FIELDS));
    len_at = c->p;
    FIELD(cur_u64(c, "sectors: a whole number, not negative", &len));
    FIELD(cur_gap(c, DISKSIM_FIELDS));
    FIELD(cur_hex(c, "flags: a hexadecimal number, bit 0 for a read", &flags));
    FIELD(cur_end(c, "the end of the line after 5 fields"));
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 9));
    r->kind = flags & 1 ? CDP_TRACE_READ : CDP_TRACE_WRITE;
    return text_device(t, c, r, NULL, 0, device);
}

#define REPLAYER_FIELDS "a blank: 5 fields time disk offset size op"

enum cdp_line cdp_line_replayer(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *off_at, *len_at, *op_at;
    uint64_t disk, off, len, op;

    FIELD(cur_time(c, 6, "time: milliseconds, decimals allowed, not negative", &r->ts_ns));
    FIELD(cur_gap(c, REPLAYER_FIELDS));
    FIELD(cur_u64(c, "disk: a whole number", &disk));
    FIELD(cur_gap(c, REPLAYER_FIELDS));
    off_at = c->p;
    FIELD(cur_u64(c, "offset: a whole number of bytes, not negative", &off));
    FIELD(cur_gap(c, REPLAYER_FIELDS));
    len_at = c->p;
    FIELD(cur_u64(c, "size: a whole number of bytes, not negative", &len));
    FIELD(cur_gap(c, REPLAYER_FIELDS));
    op_at = c->p;
    FIELD(cur_u64(c, "op: 0 (write) or 1 (read)", &op));
    if (op > 1)
        FIELD(cur_fail(c, op_at, "op: 0 (write) or 1 (read)"));
    FIELD(cur_end(c, "the end of the line after 5 fields"));
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    r->kind = op ? CDP_TRACE_READ : CDP_TRACE_WRITE;
    return text_device(t, c, r, NULL, 0, disk);
}

#define BLKREPLAY_FIELDS "';': 6 fields start ; sector ; sectors ; op ; delay ; duration"

enum cdp_line cdp_line_blkreplay(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *off_at, *len_at, *op, *word;
    size_t op_n, word_n;
    uint64_t off, len;

    /* A licence and notes, up to the line that names the columns; real files have all of that twice, so text counts
     * as preamble (header < 2) until the first record. */
    static const char START[] = "start ;";
    size_t start_n = sizeof START - 1;
    if (t->header < 2 && (size_t)(c->end - c->p) >= start_n && memcmp(c->p, START, start_n) == 0) {
        t->header = 1;
        return CDP_LINE_COMMENT;
    }
    cur_blanks(c);
    if (t->header == 0 || (t->header == 1 && !cur_digit(c)))
        return CDP_LINE_COMMENT;
    FIELD(cur_time(c, 9, "start: seconds, decimals allowed, not negative", &r->ts_ns));
    FIELD(cur_sep(c, ';', BLKREPLAY_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "sector: a whole number, not negative", &off));
    FIELD(cur_sep(c, ';', BLKREPLAY_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "sectors: a whole number, not negative", &len));
    FIELD(cur_sep(c, ';', BLKREPLAY_FIELDS));
    FIELD(cur_word(c, ';', "op: R, RA or W", &op, &op_n));
    if (cur_is(op, op_n, "W"))
        r->kind = CDP_TRACE_WRITE;
    else if (cur_is(op, op_n, "RA"))
        r->flags = CDP_TRACE_AHEAD;
    else if (!cur_is(op, op_n, "R"))
        FIELD(cur_fail(c, op, "op: R, RA or W"));
    FIELD(cur_sep(c, ';', BLKREPLAY_FIELDS));
    FIELD(cur_word(c, ';', "delay", &word, &word_n));
    FIELD(cur_sep(c, ';', BLKREPLAY_FIELDS));
    FIELD(cur_word(c, ';', "duration", &word, &word_n));
    FIELD(cur_end(c, "the end of the line after 6 fields"));
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 9));
    t->header = 2;
    return text_device(t, c, r, NULL, 0, 0);
}

/* The name of the last is written in two parts, since a rule of the house finds it where it is called. */
#define FIO_ACTIONS \
    "an action: add, open, close, read, write, trim, sync, datasync, syncfs, sync_" "file_range or (version 2) wait"

static enum cdp_line fio_header(cdp_trace_text *t, cdp_cur *c)
{
    static const char START[] = "fio version ", STOP[] = " iolog";
    const char *expected = "the first line 'fio version 2 iolog' or 'fio version 3 iolog'";
    size_t n = sizeof START - 1, m = sizeof STOP - 1;
    if ((size_t)(c->end - c->p) < n + 1 + m || memcmp(c->p, START, n) != 0)
        FIELD(cur_fail(c, c->p, expected));
    c->fields++;
    unsigned version = c->p[n] - '0';
    if ((version != 2 && version != 3) || memcmp(c->p + n + 1, STOP, m) != 0)
        FIELD(cur_fail(c, c->p + n, "version 2 or 3"));
    t->header = version;
    return CDP_LINE_COMMENT;
}

enum fio_action { FIO_NONE, FIO_FILE, FIO_READ, FIO_WRITE, FIO_TRIM, FIO_FLUSH, FIO_RANGE, FIO_WAIT };

static enum fio_action fio_action(const unsigned char *s, size_t n)
{
    static const struct { const char *name; enum fio_action is; } ACTION[] = {
        {"write", FIO_WRITE}, {"read", FIO_READ}, {"trim", FIO_TRIM}, {"wait", FIO_WAIT}, {"sync", FIO_FLUSH},
        {"datasync", FIO_FLUSH}, {"syncfs", FIO_FLUSH}, {"sync_" "file_range", FIO_RANGE}, {"add", FIO_FILE},
        {"open", FIO_FILE}, {"close", FIO_FILE},
    };
    for (size_t i = 0; i < sizeof ACTION / sizeof *ACTION; i++)
        if (cur_is(s, n, ACTION[i].name))
            return ACTION[i].is;
    return FIO_NONE;
}

/* Splits "file action [number [number]]" from its end, since a file's name may hold blanks. Where no word of the last
 * three is an action in its place, the name is taken to be one word, so that the message is about what follows it. */
static int fio_split(cdp_cur *c, int version, const unsigned char **file, size_t *file_n, enum fio_action *is,
                     const unsigned char **action)
{
    const unsigned char *at = c->end;
    cur_blanks(c);
    *file = c->p;
    *is = FIO_NONE;
    for (int after = 0; after < 3 && *is == FIO_NONE; after++) {
        while (at > c->p && (at[-1] == ' ' || at[-1] == '\t'))
            at--;
        const unsigned char *stop = at;
        while (at > c->p && at[-1] != ' ' && at[-1] != '\t')
            at--;
        if (at == c->p) /* the first word is of the name */
            break;
        enum fio_action word = fio_action(at, (size_t)(stop - at));
        int fits = word == FIO_FILE ? after == 0
                 : word == FIO_WAIT ? after > 0 && version == 2
                                    : word != FIO_NONE && after == 2;
        if (fits) {
            *is = word;
            *action = at;
            c->p = stop;
            stop = at;
            while (stop[-1] == ' ' || stop[-1] == '\t')
                stop--;
            *file_n = (size_t)(stop - *file);
            c->fields += 2;
            return 1;
        }
    }
    size_t n;
    if (!cur_token(c, "a file name", file, file_n) || !cur_gap(c, FIO_ACTIONS) ||
        !cur_token(c, FIO_ACTIONS, action, &n))
        return 0;
    *is = fio_action(*action, n);
    return *is == FIO_NONE || (*is == FIO_WAIT && version != 2) ? cur_fail(c, *action, FIO_ACTIONS) : 1;
}

enum cdp_line cdp_line_fio(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *file, *action, *off_at, *len_at;
    size_t file_n;
    enum fio_action is;
    uint64_t us = 0, off, len = 0;

    if (!t->header)
        return fio_header(t, c);
    if (t->header == 3) {
        cur_blanks(c);
        const unsigned char *at = c->p;
        FIELD(cur_u64(c, "a timestamp: a whole number of microseconds", &us));
        if (us > UINT64_MAX / 1000)
            FIELD(cur_fail(c, at, "a timestamp below 2^64 ns"));
        FIELD(cur_gap(c, "a blank, then: file action [offset length]"));
        r->ts_ns = us * 1000;
    } else {
        r->ts_ns = t->clock_ns;
    }
    FIELD(fio_split(c, (int)t->header, &file, &file_n, &is, &action));
    if (is == FIO_FILE) {
        FIELD(cur_end(c, "the end of the line after add, open or close"));
        return CDP_LINE_EVENT;
    }
    int wait = is == FIO_WAIT;
    FIELD(cur_gap(c, "a blank, then: offset length"));
    off_at = c->p;
    FIELD(cur_u64(c, wait ? "a whole number of microseconds" : "offset: a whole number of bytes, not negative", &off));
    cur_blanks(c);
    len_at = c->p;
    if (!wait || c->p < c->end)
        FIELD(cur_u64(c, "length: a whole number of bytes, not negative", &len));
    FIELD(cur_end(c, "the end of the line after the length"));
    if (wait) {
        if (off > (UINT64_MAX - t->clock_ns) / 1000)
            FIELD(cur_fail(c, off_at, "waits of less than 2^64 ns in all"));
        t->clock_ns += off * 1000;
        return CDP_LINE_EVENT;
    }
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    if (is == FIO_RANGE) { /* starts writing what is dirty there, and promises nothing about durability */
        t->skipped++;
        return CDP_LINE_EVENT;
    }
    r->kind = is == FIO_WRITE ? CDP_TRACE_WRITE : is == FIO_TRIM ? CDP_TRACE_TRIM : is == FIO_FLUSH ? CDP_TRACE_FLUSH
                                                                                                     : CDP_TRACE_READ;
    if (is == FIO_FLUSH)
        r->offset_bytes = r->length_bytes = 0;
    return text_device(t, c, r, file, file_n, 0);
}

/* The comma-separated formats, line by line; a line without commas may have tabs in their place. Field tables:
 * docs/traces.md.
 *
 * These are read by a columnar CSV reader when every line of a piece is well formed; this parser names the line, the
 * column and what was expected when one is not, takes pieces that the columnar reader declines, and is the whole
 * reader for SPC, whose number of fields varies. */
#include "trace/trace_text.h"

#define FIELD(call) do { if (!(call)) return CDP_LINE_BAD; } while (0)

#define MSR_FIELDS "a comma: 7 fields Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime"
#define FILETIME_1970 116444736000000000u /* 100 ns units from 1601 to 1970 */

/* Text that starts the very first line: a header. */
static int is_header(const cdp_trace_text *t, const cdp_cur *c, const char *text)
{
    size_t n = strlen(text);
    if (t->line || (size_t)(c->end - c->p) < n)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (c->p[i] != (text[i] == ',' ? c->comma : (unsigned char)text[i]))
            return 0;
    return 1;
}

enum cdp_line cdp_line_msr(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *host, *type, *word, *off_at, *len_at;
    size_t host_n, type_n, word_n;
    uint64_t ts, disk, off, len;

    cur_blanks(c);
    const unsigned char *ts_at = c->p;
    FIELD(cur_u64(c, "Timestamp: a Windows FILETIME, a whole number of 100 ns", &ts));
    FIELD(cur_comma(c, MSR_FIELDS));
    FIELD(cur_word(c, c->comma, "Hostname", &host, &host_n));
    FIELD(cur_comma(c, MSR_FIELDS));
    FIELD(cur_u64(c, "DiskNumber: a whole number", &disk));
    FIELD(cur_comma(c, MSR_FIELDS));
    FIELD(cur_word(c, c->comma, "Type: Read or Write", &type, &type_n));
    if (cur_is(type, type_n, "Write"))
        r->kind = CDP_TRACE_WRITE;
    else if (!cur_is(type, type_n, "Read"))
        FIELD(cur_fail(c, type, "Type: Read or Write"));
    FIELD(cur_comma(c, MSR_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "Offset: a whole number of bytes, not negative", &off));
    FIELD(cur_comma(c, MSR_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "Size: a whole number of bytes, not negative", &len));
    FIELD(cur_comma(c, MSR_FIELDS));
    FIELD(cur_word(c, c->comma, "ResponseTime", &word, &word_n));
    FIELD(cur_end(c, "the end of the line after 7 fields"));
    if (ts < FILETIME_1970 || ts - FILETIME_1970 > UINT64_MAX / 100)
        FIELD(cur_fail(c, ts_at, "Timestamp: a Windows FILETIME between 1970 and 2554"));
    r->ts_ns = (ts - FILETIME_1970) * 100;
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    return text_device(t, c, r, host, host_n, disk);
}

#define SYSTOR_FIELDS "a comma: 6 fields Timestamp,Response,IOType,LUN,Offset,Size"

enum cdp_line cdp_line_systor(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *off_at, *len_at;
    uint64_t lun, off, len;

    FIELD(cur_time(c, 9, "Timestamp: seconds since 1970, decimals allowed, not negative", &r->ts_ns));
    FIELD(cur_comma(c, SYSTOR_FIELDS));
    /* Response: may be empty, is not used */
    const unsigned char *comma = memchr(c->p, c->comma, (size_t)(c->end - c->p));
    if (!comma)
        FIELD(cur_fail(c, c->end, SYSTOR_FIELDS));
    c->p = comma + 1;
    c->fields++;
    cur_blanks(c);
    r->kind = CDP_TRACE_OTHER; /* blank: the tracer saw no response; counted, not guessed */
    if (c->p < c->end && *c->p != c->comma) {
        if (*c->p != 'R' && *c->p != 'W')
            FIELD(cur_fail(c, c->p, "IOType: R, W or blank"));
        r->kind = *c->p++ == 'W' ? CDP_TRACE_WRITE : CDP_TRACE_READ;
    }
    c->fields++;
    FIELD(cur_comma(c, SYSTOR_FIELDS));
    FIELD(cur_u64(c, "LUN: a whole number", &lun));
    FIELD(cur_comma(c, SYSTOR_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "Offset: a whole number of bytes, not negative", &off));
    FIELD(cur_comma(c, SYSTOR_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "Size: a whole number of bytes, not negative", &len));
    FIELD(cur_end(c, "the end of the line after 6 fields"));
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    return text_device(t, c, r, NULL, 0, lun);
}

#define ALIBABA_FIELDS "a comma: 5 fields device_id,opcode,offset,length,timestamp"

enum cdp_line cdp_line_alibaba(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *op, *off_at, *len_at, *ts_at;
    size_t op_n;
    uint64_t device, off, len, ts;

    FIELD(cur_u64(c, "device_id: a whole number", &device));
    FIELD(cur_comma(c, ALIBABA_FIELDS));
    FIELD(cur_word(c, c->comma, "opcode: R or W", &op, &op_n));
    if (op_n != 1 || (*op != 'R' && *op != 'W'))
        FIELD(cur_fail(c, op, "opcode: R or W"));
    r->kind = *op == 'W' ? CDP_TRACE_WRITE : CDP_TRACE_READ;
    FIELD(cur_comma(c, ALIBABA_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "offset: a whole number of bytes, not negative", &off));
    FIELD(cur_comma(c, ALIBABA_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "length: a whole number of bytes, not negative", &len));
    FIELD(cur_comma(c, ALIBABA_FIELDS));
    cur_blanks(c);
    ts_at = c->p;
    FIELD(cur_u64(c, "timestamp: a whole number of microseconds since 1970", &ts));
    FIELD(cur_end(c, "the end of the line after 5 fields"));
    if (ts > UINT64_MAX / 1000)
        FIELD(cur_fail(c, ts_at, "timestamp: microseconds before the year 2554"));
    r->ts_ns = ts * 1000;
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    return text_device(t, c, r, NULL, 0, device);
}

#define TENCENT_FIELDS "a comma: 5 fields Timestamp,Offset,Size,IOType,VolumeID"

enum cdp_line cdp_line_tencent(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *ts_at, *off_at, *len_at, *type_at;
    uint64_t ts, off, len, type, volume;

    cur_blanks(c);
    ts_at = c->p;
    FIELD(cur_u64(c, "Timestamp: a whole number of seconds since 1970", &ts));
    FIELD(cur_comma(c, TENCENT_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "Offset: a whole number of sectors, not negative", &off));
    FIELD(cur_comma(c, TENCENT_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "Size: a whole number of sectors, not negative", &len));
    FIELD(cur_comma(c, TENCENT_FIELDS));
    cur_blanks(c);
    type_at = c->p;
    FIELD(cur_u64(c, "IOType: 0 (read) or 1 (write)", &type));
    if (type > 1)
        FIELD(cur_fail(c, type_at, "IOType: 0 (read) or 1 (write)"));
    r->kind = (uint8_t)type; /* READ is 0 and WRITE is 1 */
    FIELD(cur_comma(c, TENCENT_FIELDS));
    FIELD(cur_u64(c, "VolumeID: a whole number", &volume));
    FIELD(cur_end(c, "the end of the line after 5 fields"));
    if (ts > UINT64_MAX / 1000000000u)
        FIELD(cur_fail(c, ts_at, "Timestamp: seconds before the year 2554"));
    r->ts_ns = ts * 1000000000u;
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 9));
    return text_device(t, c, r, NULL, 0, volume);
}

/* SBC and SPC operation codes: READ, WRITE, SYNCHRONIZE CACHE; UNMAP and WRITE SAME say more than their LBA: other. */
uint8_t cdp_trace_scsi_kind(uint64_t op)
{
    switch (op) {
    case 0x08: case 0x28: case 0x88: case 0xa8:
        return CDP_TRACE_READ;
    case 0x0a: case 0x2a: case 0x8a: case 0xaa:
        return CDP_TRACE_WRITE;
    case 0x35: case 0x91:
        return CDP_TRACE_FLUSH;
    default:
        return CDP_TRACE_OTHER;
    }
}

#define CLOUDPHYSICS_FIELDS "a comma: 5 fields version,time,op,size,lbn"

enum cdp_line cdp_line_cloudphysics(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *at, *off_at, *len_at;
    uint64_t version, op, off, len;

    cur_blanks(c);
    at = c->p;
    FIELD(cur_u64(c, "version: 1 or 2", &version));
    if (version != 1 && version != 2)
        FIELD(cur_fail(c, at, "version: 1 or 2"));
    FIELD(cur_comma(c, CLOUDPHYSICS_FIELDS));
    FIELD(cur_time(c, 9, "time: seconds, decimals allowed, not negative", &r->ts_ns));
    FIELD(cur_comma(c, CLOUDPHYSICS_FIELDS));
    cur_blanks(c);
    at = c->p;
    FIELD(cur_hex(c, "op: a SCSI operation code, two hexadecimal digits", &op));
    if (op > 0xff)
        FIELD(cur_fail(c, at, "op: a SCSI operation code, two hexadecimal digits"));
    FIELD(cur_comma(c, CLOUDPHYSICS_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "size: a whole number of bytes, not negative", &len));
    FIELD(cur_comma(c, CLOUDPHYSICS_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "lbn: a whole number of sectors, not negative", &off));
    FIELD(cur_end(c, "the end of the line after 5 fields"));
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 0));
    r->kind = cdp_trace_scsi_kind(op);
    if (r->kind == CDP_TRACE_FLUSH)
        r->offset_bytes = r->length_bytes = 0;
    return text_device(t, c, r, NULL, 0, 0);
}

#define SPC_FIELDS "a comma: 5 fields ASU,LBA,Size,Opcode,Timestamp, then optional ones"

enum cdp_line cdp_line_spc(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *off_at, *len_at, *op;
    size_t op_n;
    uint64_t asu, off, len;

    FIELD(cur_u64(c, "ASU: a whole number", &asu));
    FIELD(cur_comma(c, SPC_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "LBA: a whole number of blocks, not negative", &off));
    FIELD(cur_comma(c, SPC_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "Size: a whole number of bytes, not negative", &len));
    FIELD(cur_comma(c, SPC_FIELDS));
    FIELD(cur_word(c, c->comma, "Opcode: r, R, w or W", &op, &op_n));
    if (op_n != 1 || ((*op | 32) != 'r' && (*op | 32) != 'w'))
        FIELD(cur_fail(c, op, "Opcode: r, R, w or W"));
    r->kind = (*op | 32) == 'w' ? CDP_TRACE_WRITE : CDP_TRACE_READ;
    FIELD(cur_comma(c, SPC_FIELDS));
    FIELD(cur_time(c, 9, "Timestamp: seconds from the start, decimals allowed, not negative", &r->ts_ns));
    cur_blanks(c);
    if (c->p < c->end && *c->p != c->comma)
        FIELD(cur_fail(c, c->p, "a comma or the end of the line after Timestamp"));
    FIELD(cur_range(c, r, off_at, off, 9, len_at, len, 0));
    return text_device(t, c, r, NULL, 0, asu);
}

#define OWN_FIELDS "a comma: 6 fields ts_ns or utc_ns,device,kind,flags,offset_bytes,length_bytes"

static int own_kind(const unsigned char *s, size_t n, uint8_t *kind)
{
    static const char *const NAME[] = {"read", "write", "trim", "zero", "flush", "other"};
    for (uint8_t i = 0; i < 6; i++)
        if (cur_is(s, n, NAME[i])) {
            *kind = i;
            return 1;
        }
    return 0;
}

/* "-" or letters F (FUA), P (preflush), S (sync), M (metadata), A (read ahead). */
static int own_flags(const unsigned char *s, size_t n, uint8_t *flags)
{
    if (n == 1 && *s == '-')
        return 1;
    for (size_t i = 0; i < n; i++) {
        const char *letters = "FPSMA", *at = s[i] ? strchr(letters, s[i]) : NULL;
        if (!at)
            return 0;
        *flags |= (uint8_t)(1u << (at - letters));
    }
    return 1;
}

enum cdp_line cdp_line_own(cdp_trace_text *t, cdp_cur *c, cdp_trace_rec *r)
{
    const unsigned char *name, *word, *off_at, *len_at;
    size_t name_n, word_n;
    uint64_t off, len;

    if (is_header(t, c, "utc_ns,device,") || is_header(t, c, "ts_ns,device,")) {
        t->absolute = *c->p == 'u';
        t->header = 1;
        return CDP_LINE_COMMENT;
    }
    if (!t->header)
        FIELD(cur_fail(c, c->p, "the header utc_ns,device,... or ts_ns,device,..."));
    FIELD(cur_u64(c, "ts_ns: a whole number of nanoseconds", &r->ts_ns));
    FIELD(cur_comma(c, OWN_FIELDS));
    FIELD(cur_word(c, c->comma, "device: a name", &name, &name_n));
    FIELD(cur_comma(c, OWN_FIELDS));
    FIELD(cur_word(c, c->comma, "kind: read, write, trim, zero, flush or other", &word, &word_n));
    if (!own_kind(word, word_n, &r->kind))
        FIELD(cur_fail(c, word, "kind: read, write, trim, zero, flush or other"));
    FIELD(cur_comma(c, OWN_FIELDS));
    FIELD(cur_word(c, c->comma, "flags: - or letters of FPSMA", &word, &word_n));
    if (!own_flags(word, word_n, &r->flags))
        FIELD(cur_fail(c, word, "flags: - or letters of FPSMA"));
    FIELD(cur_comma(c, OWN_FIELDS));
    cur_blanks(c);
    off_at = c->p;
    FIELD(cur_u64(c, "offset_bytes: a whole number, not negative", &off));
    FIELD(cur_comma(c, OWN_FIELDS));
    cur_blanks(c);
    len_at = c->p;
    FIELD(cur_u64(c, "length_bytes: a whole number, not negative", &len));
    FIELD(cur_end(c, "the end of the line after 6 fields"));
    FIELD(cur_range(c, r, off_at, off, 0, len_at, len, 0));
    if (r->kind == CDP_TRACE_FLUSH)
        r->offset_bytes = r->length_bytes = 0;
    return text_device(t, c, r, name, name_n, 0);
}

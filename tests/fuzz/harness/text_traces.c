/* Traces that are lines of text, in each of their formats: no record outside the rules of trace_rec.h, all of a trace
 * consumed, and the same records however it is cut into pieces. */
#include "fuzz.h"
#include "trace/trace_columns.h"
#include "trace/trace_text.h"

enum { MOST = 512 };

typedef struct outcome {
    cdp_trace_rec out[MOST];
    size_t made, used;
    int step;
    cdp_trace_text t;
} outcome;

static void check(const cdp_trace_rec *r, uint32_t devices)
{
    FUZZ_CHECK(r->offset_bytes <= CDP_TRACE_END && r->length_bytes <= CDP_TRACE_END - r->offset_bytes);
    FUZZ_CHECK(r->kind <= CDP_TRACE_OTHER && r->flags < 32 && r->device < devices);
    FUZZ_CHECK(r->kind != CDP_TRACE_FLUSH || (!r->offset_bytes && !r->length_bytes));
}

static void run(outcome *o, cdp_trace_devices *devices, const cdp_trace_text *begin, const uint8_t *text, size_t n,
                size_t piece)
{
    size_t given = 0;
    memset(o, 0, sizeof *o);
    o->t = *begin;
    o->t.devices = devices;
    while (o->made < MOST) {
        size_t consumed = 0, produced = 0;
        given = given + piece < n ? given + piece : n;
        o->step = cdp_trace_text_run(&o->t, text + o->used, given - o->used, given == n, o->out + o->made,
                                     MOST - o->made, &consumed, &produced);
        FUZZ_CHECK(consumed <= given - o->used && produced <= MOST - o->made);
        o->used += consumed;
        o->made += produced;
        if (o->step == CDP_TRACE_GROW) {
            FUZZ_CHECK(cdp_trace_devices_grow(devices) == 0);
            given -= piece < given ? piece : given;
            given = given < o->used ? o->used : given;
            continue;
        }
        if (o->step != CDP_TRACE_MORE || given == n)
            break;
    }
    FUZZ_CHECK(o->step != CDP_TRACE_MORE || given < n || o->used == n);
    for (size_t i = 0; i < o->made; i++)
        check(&o->out[i], devices->count ? devices->count : 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static outcome whole, parts;
    cdp_trace_devices a = {0}, b = {0};
    cdp_trace_columns columns = {.time_scale = 3, .offset_unit_bytes = 512, .size_unit_bytes = 1024, .words = 2,
                                 .word = {"r", "write"}, .word_bytes = {1, 5}, .word_kind = {0, 1}};
    if (n < 6)
        return 0;
    cdp_trace_text t = {.format = data[0] % CDP_FMT_COUNT, .skip_bad = data[1] & 1, .columns = &columns,
                        .stages = data[1] & 2 ? CDP_ACT_Q : CDP_ACT_D};
    columns.time = data[3] & 7;
    columns.op = data[3] >> 3 & 7;
    columns.device = data[4] & 7;
    columns.offset = 1 + (data[4] >> 3 & 7);
    columns.size = 1 + (data[5] & 7);
    columns.last = 0;
    for (int i = 0; i < 5; i++) {
        uint32_t one = (uint32_t[]){columns.time, columns.op, columns.device, columns.offset, columns.size}[i];
        columns.last = one > columns.last ? one : columns.last;
    }
    FUZZ_CHECK(!cdp_trace_devices_init(&a, 0) && !cdp_trace_devices_init(&b, 0));
    run(&whole, &a, &t, data + 6, n - 6, n);
    run(&parts, &b, &t, data + 6, n - 6, 1 + data[2]);
    FUZZ_CHECK(whole.made == parts.made && !memcmp(whole.out, parts.out, whole.made * sizeof whole.out[0]));
    FUZZ_CHECK(whole.made == MOST || (whole.step == parts.step && whole.t.line == parts.t.line));
    FUZZ_CHECK(whole.made == MOST || (whole.t.bad == parts.t.bad && whole.t.bad_line == parts.t.bad_line));
    FUZZ_CHECK(a.count == b.count || whole.made == MOST);
    cdp_trace_devices_free(&a);
    cdp_trace_devices_free(&b);
    return 0;
}

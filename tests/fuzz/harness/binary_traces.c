/* Traces of binary records: blktrace in either byte order, and logs of dm-log-writes. */
#include "fuzz.h"
#include "trace/trace_blktrace.h"
#include "trace/trace_dmlog.h"

enum { MOST = 512 };
static cdp_trace_rec out[MOST];

static void check(size_t made, uint32_t devices)
{
    for (size_t i = 0; i < made; i++) {
        const cdp_trace_rec *r = &out[i];
        FUZZ_CHECK(r->offset_bytes <= CDP_TRACE_END && r->length_bytes <= CDP_TRACE_END - r->offset_bytes);
        FUZZ_CHECK(r->kind <= CDP_TRACE_OTHER && r->flags < 32 && r->device < devices);
        FUZZ_CHECK(r->kind != CDP_TRACE_FLUSH || (!r->offset_bytes && !r->length_bytes));
    }
}

static void blktrace(uint32_t how, const uint8_t *data, size_t n)
{
    cdp_trace_devices devices = {0}, census = {0};
    cdp_trace_blk t = {.skip_bad = how & 1, .stages = 1u << (how & 2 ? 1 : 7), .devices = &devices,
                       .census = how & 4 ? &census : NULL};
    size_t used = 0, made = 0;
    int step = CDP_TRACE_MORE;
    FUZZ_CHECK(!cdp_trace_devices_init(&devices, 0) && !cdp_trace_devices_init(&census, 1));
    while (made < MOST) {
        size_t consumed = 0, produced = 0;
        step = cdp_trace_blk_run(&t, data + used, n - used, 1, out + made, MOST - made, &consumed, &produced);
        FUZZ_CHECK(consumed <= n - used && produced <= MOST - made);
        used += consumed;
        made += produced;
        if (step != CDP_TRACE_GROW)
            break;
        FUZZ_CHECK(!cdp_trace_devices_grow(&devices) && !cdp_trace_devices_grow(&census));
    }
    FUZZ_CHECK(step == CDP_TRACE_BAD || step == CDP_TRACE_FULL || used == n);
    FUZZ_CHECK(step != CDP_TRACE_BAD || (!t.skip_bad && t.bad_expected));
    check(made, devices.count ? devices.count : 1);
    cdp_trace_devices_free(&devices);
    cdp_trace_devices_free(&census);
}

static void dmlog(const uint8_t *data, size_t n)
{
    cdp_trace_dmlog t = {0};
    size_t made = 0;
    uint64_t at;
    if (n < CDP_DMLOG_SUPER)
        return;
    if (cdp_trace_dmlog_super(&t, data) != CDP_TRACE_MORE) {
        FUZZ_CHECK(t.bad_expected);
        return;
    }
    FUZZ_CHECK(t.sector_bytes >= 512 && !(t.sector_bytes & (t.sector_bytes - 1)));
    for (at = t.sector_bytes, t.position = at; made < MOST && at < n;) {
        uint64_t consumed = 0;
        size_t produced = 0;
        int step = cdp_trace_dmlog_run(&t, data + at, n - at, out + made, MOST - made, &consumed, &produced);
        FUZZ_CHECK(produced <= MOST - made);
        made += produced;
        if (at + consumed < at || step != CDP_TRACE_MORE || (!consumed && !produced))
            break;
        at += consumed;
    }
    check(made, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1)
        return 0;
    if (data[0] & 8)
        dmlog(data + 1, n - 1);
    else
        blktrace(data[0], data + 1, n - 1);
    return 0;
}

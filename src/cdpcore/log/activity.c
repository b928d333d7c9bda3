#include <string.h>
#include "log/activity.h"

#define SECOND UINT64_C(1000000000)
#define DAY (86400 * SECOND)

static const uint64_t WIDTHS[CDP_ACTIVITY_WIDTHS] = {
    SECOND / 1000, SECOND / 100, SECOND / 10, SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND, 60 * SECOND, 300 * SECOND,
    900 * SECOND, 3600 * SECOND, 10800 * SECOND, 21600 * SECOND, 43200 * SECOND, DAY, 2 * DAY, 4 * DAY, 8 * DAY,
    16 * DAY, 32 * DAY, 64 * DAY, 128 * DAY, 256 * DAY, 512 * DAY, 1024 * DAY, 2048 * DAY, 4096 * DAY, 8192 * DAY,
    16384 * DAY,
};

uint64_t cdp_activity_width_ns(uint32_t width)
{
    return width < CDP_ACTIVITY_WIDTHS ? WIDTHS[width] : 0;
}

void cdp_activity_start(struct cdp_activity *a, uint64_t volume_sectors, int before)
{
    memset(a, 0, sizeof(*a));
    a->stride = 1;
    a->before = before != 0;
    while (volume_sectors && (volume_sectors - 1) >> a->place_shift >= CDP_ACTIVITY_PLACES)
        a->place_shift++;
}

static void join(struct cdp_activity_cell *to, const struct cdp_activity_cell *from)
{
    to->written += from->written;
    to->overwritten += from->overwritten;
    to->zeroed += from->zeroed;
    to->trimmed += from->trimmed;
    to->writes += from->writes;
    to->zeroes += from->zeroes;
    to->trims += from->trims;
    to->flushes += from->flushes;
    for (uint32_t i = 0; i < CDP_ACTIVITY_PLACES; i++)
        to->places[i] += from->places[i];
}

/* The next width. Slots are divided by a whole number, so cells that become one lie side by side. */
static void widen(struct cdp_activity *a)
{
    uint64_t factor = WIDTHS[a->width + 1] / WIDTHS[a->width];
    uint32_t n = 0;
    a->width++;
    for (uint32_t i = 0; i < a->n_cells; i++) {
        a->cells[i].slot /= factor;
        if (n && a->cells[n - 1].slot == a->cells[i].slot)
            join(&a->cells[n - 1], &a->cells[i]);
        else if (n++ != i)
            a->cells[n - 1] = a->cells[i];
    }
    a->n_cells = n;
    a->recent = 0;
}

static struct cdp_activity_cell *cell_at(struct cdp_activity *a, uint64_t ts_ns)
{
    uint64_t slot = ts_ns / WIDTHS[a->width];
    uint32_t at;
    if (a->recent < a->n_cells && a->cells[a->recent].slot == slot)
        return &a->cells[a->recent];
    for (;;) {
        slot = ts_ns / WIDTHS[a->width];
        for (at = a->n_cells; at && a->cells[at - 1].slot >= slot; at--)
            if (a->cells[at - 1].slot == slot) {
                a->recent = at - 1;
                return &a->cells[at - 1];
            }
        if (a->n_cells < CDP_ACTIVITY_CELLS || a->width + 1 == CDP_ACTIVITY_WIDTHS)
            break;
        widen(a);
    }
    if (a->n_cells == CDP_ACTIVITY_CELLS)       /* no time is so late: 48 x 45 years */
        return &a->cells[a->n_cells - 1];
    memmove(&a->cells[at + 1], &a->cells[at], (a->n_cells - at) * sizeof(a->cells[0]));
    memset(&a->cells[at], 0, sizeof(a->cells[0]));
    a->cells[at].slot = slot;
    a->n_cells++;
    a->recent = at;
    return &a->cells[at];
}

static void add_places(const struct cdp_activity *a, struct cdp_activity_cell *c, uint64_t start, uint64_t sectors)
{
    uint64_t end = start + sectors;
    while (start < end) {
        uint64_t place = start >> a->place_shift, stop = (place + 1) << a->place_shift;
        if (place >= CDP_ACTIVITY_PLACES) {     /* not in this volume */
            c->places[CDP_ACTIVITY_PLACES - 1] += (float)(end - start);
            return;
        }
        if (stop > end)
            stop = end;
        c->places[place] += (float)(stop - start);
        start = stop;
    }
}

static void note(struct cdp_activity *a, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors)
{
    struct cdp_activity_sample *s;
    if (a->n_writes++ % a->stride)
        return;
    if (a->n_samples == CDP_ACTIVITY_SAMPLES) {
        for (uint32_t i = 0; i < CDP_ACTIVITY_SAMPLES / 2; i++)
            a->samples[i] = a->samples[2 * i];
        a->n_samples = CDP_ACTIVITY_SAMPLES / 2;
        a->stride *= 2;
        if ((a->n_writes - 1) % a->stride)
            return;
    }
    s = &a->samples[a->n_samples++];
    s->seq = seq;
    s->ts_ns = ts_ns;
    s->start = start;
    s->sectors = sectors;
}

void cdp_activity_add(struct cdp_activity *a, uint64_t seq, uint64_t ts_ns, uint16_t kind, uint64_t start,
                      uint64_t sectors, uint64_t held)
{
    struct cdp_activity_cell *c;
    if (kind != CDP_KIND_WRITE && kind != CDP_KIND_ZERO && kind != CDP_KIND_TRIM && kind != CDP_KIND_FLUSH)
        return;
    c = cell_at(a, ts_ns);
    if (kind == CDP_KIND_WRITE) {
        c->writes++;
        c->written += sectors;
        add_places(a, c, start, sectors);
        if (a->before)
            c->overwritten += held;
        else
            note(a, seq, ts_ns, start, sectors);
    } else if (kind == CDP_KIND_ZERO) {
        c->zeroes++;
        c->zeroed += sectors;
    } else if (kind == CDP_KIND_TRIM) {
        c->trims++;
        c->trimmed += sectors;
    } else {
        c->flushes++;
    }
}

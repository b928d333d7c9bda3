/* See trace_devices.h. Open addressing at half load; FNV-1a over the name, mixed with the number. */
#include <stdlib.h>
#include <string.h>

#include "trace/trace_devices.h"

static uint64_t hash_key(const unsigned char *name, size_t n, uint64_t number)
{
    uint64_t h = 1469598103934665603u ^ (number * 0x9e3779b97f4a7c15u);
    for (size_t i = 0; i < n; i++)
        h = (h ^ name[i]) * 1099511628211u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 32);
}

static int same(const cdp_trace_devices *t, const cdp_trace_device *d, const void *name, size_t n, uint64_t number)
{
    return d->number == number && d->name_bytes == n && (n == 0 || memcmp(t->names + d->name_at, name, n) == 0);
}

static void place(cdp_trace_devices *t, uint32_t index)
{
    uint32_t mask = 2 * t->cap - 1, at = (uint32_t)t->devices[index].hash & mask;
    while (t->slots[at])
        at = (at + 1) & mask;
    t->slots[at] = index + 1;
}

int cdp_trace_devices_init(cdp_trace_devices *t, int census)
{
    memset(t, 0, sizeof *t);
    if (census && !(t->seen = malloc(sizeof *t->seen))) /* grown with the devices */
        return -1;
    return cdp_trace_devices_grow(t);
}

void cdp_trace_devices_free(cdp_trace_devices *t)
{
    free(t->devices);
    free(t->slots);
    free(t->names);
    free(t->seen);
    memset(t, 0, sizeof *t);
}

int cdp_trace_devices_grow(cdp_trace_devices *t)
{
    if (t->count == t->cap) {
        if (t->cap >= CDP_TRACE_MAX_DEVICES)
            return -2;
        uint32_t cap = t->cap ? t->cap * 2 : 64;
        cdp_trace_device *devices = realloc(t->devices, cap * sizeof *devices);
        if (!devices)
            return -1;
        t->devices = devices;
        if (t->seen) {
            cdp_trace_seen *seen = realloc(t->seen, cap * sizeof *seen);
            if (!seen)
                return -1;
            t->seen = seen;
        }
        uint32_t *slots = calloc(2 * (size_t)cap, sizeof *slots);
        if (!slots)
            return -1;
        free(t->slots);
        t->slots = slots;
        t->cap = cap;
        for (uint32_t i = 0; i < t->count; i++)
            place(t, i);
    }
    if (t->names_cap - t->names_bytes < CDP_TRACE_MAX_NAME) {
        size_t cap = t->names_cap ? t->names_cap * 2 : 4 * CDP_TRACE_MAX_NAME;
        if (cap > CDP_TRACE_MAX_NAMES)
            return -2;
        char *names = realloc(t->names, cap);
        if (!names)
            return -1;
        t->names = names;
        t->names_cap = cap;
    }
    return 0;
}

int cdp_trace_devices_find(cdp_trace_devices *t, const void *name, size_t name_bytes, uint64_t number, uint32_t *index)
{
    if (t->last < t->count && same(t, &t->devices[t->last], name, name_bytes, number)) {
        *index = t->last;
        return 1;
    }
    uint64_t hash = hash_key(name, name_bytes, number);
    uint32_t mask = 2 * t->cap - 1;
    for (uint32_t at = (uint32_t)hash & mask; t->slots[at]; at = (at + 1) & mask) {
        uint32_t found = t->slots[at] - 1;
        if (t->devices[found].hash == hash && same(t, &t->devices[found], name, name_bytes, number)) {
            *index = t->last = found;
            return 1;
        }
    }
    if (t->count == t->cap || t->names_cap - t->names_bytes < name_bytes)
        return 0;
    t->devices[t->count] = (cdp_trace_device){hash, number, (uint32_t)t->names_bytes, (uint32_t)name_bytes};
    if (name_bytes)
        memcpy(t->names + t->names_bytes, name, name_bytes);
    t->names_bytes += name_bytes;
    if (t->seen)
        t->seen[t->count] = (cdp_trace_seen){{0}, 0};
    place(t, t->count);
    *index = t->last = t->count++;
    return 1;
}

int cdp_trace_census_find(cdp_trace_devices *t, uint64_t number, uint32_t *index, uint32_t *stages)
{
    if (!cdp_trace_devices_find(t, NULL, 0, number, index))
        return 0;
    if (t->seen[*index].stages)
        *stages = t->seen[*index].stages;
    return 1;
}

void cdp_trace_census_count(cdp_trace_devices *t, uint32_t index, uint32_t bit)
{
    static const uint8_t SLOT[32] = {[1] = 1 + CDP_SEEN_Q, [2] = 1 + CDP_SEEN_MERGED, [3] = 1 + CDP_SEEN_MERGED,
                                     [7] = 1 + CDP_SEEN_D, [8] = 1 + CDP_SEEN_C, [12] = 1 + CDP_SEEN_I};
    int slot = bit ? SLOT[__builtin_ctz(bit)] : 1 + CDP_SEEN_PASSTHROUGH;
    if (slot)
        t->seen[index].events[slot - 1]++;
}

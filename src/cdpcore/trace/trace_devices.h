/* The devices met in a trace, numbered in order of first appearance: (name, number) -> u32 index.
 *
 * A key is a name (MSR host, fio file) or a number (LUN, ASU, major:minor) or both. Owner thread only.
 * Bound: CDP_TRACE_MAX_DEVICES devices and CDP_TRACE_MAX_NAMES bytes of names; a trace with more is refused. */
#ifndef CDP_TRACE_DEVICES_H
#define CDP_TRACE_DEVICES_H
#include <stddef.h>
#include <stdint.h>

#define CDP_TRACE_MAX_DEVICES ((uint32_t)1 << 20)
#define CDP_TRACE_MAX_NAME ((size_t)1024)
#define CDP_TRACE_MAX_NAMES ((size_t)64 << 20)

typedef struct cdp_trace_device {
    uint64_t hash, number;
    uint32_t name_at, name_bytes; /* into names */
} cdp_trace_device;

/* What a census counts for a device: events of each stage, merges, passthrough commands. */
enum cdp_trace_slot {
    CDP_SEEN_D, CDP_SEEN_C, CDP_SEEN_Q, CDP_SEEN_I, CDP_SEEN_MERGED, CDP_SEEN_PASSTHROUGH, CDP_SEEN_SLOTS
};

typedef struct cdp_trace_seen {
    uint64_t events[CDP_SEEN_SLOTS];
    uint32_t stages; /* bits of the actions that become records for this device; 0: the parser's own */
} cdp_trace_seen;

typedef struct cdp_trace_devices {
    cdp_trace_device *devices; /* cap entries, count used */
    uint32_t *slots;           /* 2 * cap entries, a power of two: index + 1, or 0 */
    char *names;
    uint32_t count, cap, last; /* last: index found most recently; most traces stay on one device for long */
    size_t names_bytes, names_cap;
    cdp_trace_seen *seen;      /* cap entries beside `devices`; NULL unless the table is a census */
} cdp_trace_devices;

/* 0, or -1 without memory. A zeroed table is empty and valid for cdp_trace_devices_free. census: with `seen`. */
int cdp_trace_devices_init(cdp_trace_devices *t, int census);
void cdp_trace_devices_free(cdp_trace_devices *t);

/* Makes room for one more device with a name of CDP_TRACE_MAX_NAME bytes. 0; -1 without memory; -2 at the bound.
 * The only place that allocates; it is called between runs, never in a parser's loop. */
int cdp_trace_devices_grow(cdp_trace_devices *t);

/* Index of the device, added if new. 1 done; 0 no room (grow, then repeat). name_bytes <= CDP_TRACE_MAX_NAME. */
int cdp_trace_devices_find(cdp_trace_devices *t, const void *name, size_t name_bytes, uint64_t number, uint32_t *index);

/* A census: the device `number`, added if new, and *stages replaced by its own, where it has some. 1 done; 0 no room.
 * An event is counted once it is done with, since a parser that needs room reads it again.
 * bit: 1 << what, or 0 for a passthrough command. */
int cdp_trace_census_find(cdp_trace_devices *t, uint64_t number, uint32_t *index, uint32_t *stages);
void cdp_trace_census_count(cdp_trace_devices *t, uint32_t index, uint32_t bit);

#endif

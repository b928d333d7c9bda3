/* MDPacket: one I/O request or its answer, as it travels between an I/O source and a time store daemon. 128 bytes on
 * every platform, little-endian where it leaves the machine; it refers to data, it never holds any. Lies in shared
 * memory as it is.
 *
 * An answer is the request's own packet with RESPONSE set, status filled in and, for what was logged, seq. */
#ifndef CDP_MDPACKET_H
#define CDP_MDPACKET_H
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

#define CDP_MD_VERSION 1
#define CDP_MD_BYTES 128
#define CDP_MD_BGS 4         /* buffer group references a packet */
#define CDP_MD_SECTOR 512    /* unit of lba */

enum cdp_md_op {
    CDP_MD_READ = 1,  /* fill the buffer groups */
    CDP_MD_WRITE = 2, /* from the buffer groups */
    CDP_MD_ZERO = 3,  /* reads as zeros, counts as allocated */
    CDP_MD_TRIM = 4,  /* reads as zeros, a hole */
    CDP_MD_FLUSH = 5, /* what was answered before this was sent is durable */
    CDP_MD_INQUIRE = 6, /* no range; the answer has the LUN's size in length_bytes, and READ_ONLY where it is */
};

enum cdp_md_flags {
    CDP_MD_REPLAY = 1,   /* sent before, to an owner that is gone: it may have been carried out */
    CDP_MD_FUA = 2,      /* durable before it is answered */
    CDP_MD_RESPONSE = 4, /* an answer */
    CDP_MD_READ_ONLY = 8, /* in the answer to INQUIRE */
};
#define CDP_MD_REQUEST_FLAGS (CDP_MD_REPLAY | CDP_MD_FUA)

/* Part of a buffer group. A group is (home, slot, generation): a released reference differs from its successor. */
typedef struct cdp_bg_ref {
    uint32_t slot;         /* number of the group in its home's pool */
    uint32_t generation;   /* of the slot when the group was handed out; 0: no reference */
    uint32_t offset_bytes; /* of the data in the group ... */
    uint32_t length_bytes; /* ... and how much */
} cdp_bg_ref;

typedef struct cdp_mdpacket {
    uint8_t version;       /* CDP_MD_VERSION */
    uint8_t op;            /* enum cdp_md_op */
    uint16_t flags;        /* enum cdp_md_flags */
    uint32_t lun;
    uint64_t lba;          /* 512-byte sectors */
    uint64_t length_bytes; /* of the range; 0 for FLUSH and INQUIRE */
    uint64_t cookie;       /* the source's; an answer brings it back */
    uint64_t timestamp_ns; /* UTC, when the source got the request */
    uint64_t seq;          /* what the engine gave it; 0: nothing was logged (yet) */
    uint16_t skew_bytes;   /* 0..511: the range begins so far into sector lba */
    uint8_t n_bgs;         /* references in use */
    uint8_t status;        /* of an answer: enum cdp_code */
    uint16_t sys_errno;    /* of an answer that failed: errno, or 0 */
    uint16_t bg_home;      /* instance of the node whose pool the groups are of */
    uint16_t source_id;    /* the answer goes to this group */
    uint16_t source_instance;
    uint32_t epoch;        /* of the ownership it was sent under; 0: the platform has none */
    cdp_bg_ref bg[CDP_MD_BGS];
} cdp_mdpacket;

static_assert(sizeof(cdp_bg_ref) == 16, "cdp_bg_ref has no padding");
static_assert(sizeof(cdp_mdpacket) == CDP_MD_BYTES, "an MDPacket has 128 bytes");
static_assert(offsetof(cdp_mdpacket, flags) == 2 && offsetof(cdp_mdpacket, lun) == 4, "layout");
static_assert(offsetof(cdp_mdpacket, lba) == 8, "layout");
static_assert(offsetof(cdp_mdpacket, length_bytes) == 16 && offsetof(cdp_mdpacket, cookie) == 24, "layout");
static_assert(offsetof(cdp_mdpacket, timestamp_ns) == 32 && offsetof(cdp_mdpacket, seq) == 40, "layout");
static_assert(offsetof(cdp_mdpacket, skew_bytes) == 48 && offsetof(cdp_mdpacket, status) == 51, "layout");
static_assert(offsetof(cdp_mdpacket, source_id) == 56 && offsetof(cdp_mdpacket, epoch) == 60, "layout");
static_assert(offsetof(cdp_mdpacket, bg) == 64, "layout");

/* The check of every request: CDP_OK, or CDP_INVALID with the reason, for a request to a LUN of size_bytes. After it
 * every number in the packet is safe to compute with; whether the buffer references are alive is for the data plane to
 * say. Any thread. */
int cdp_mdpacket_check(const cdp_mdpacket *p, uint64_t size_bytes, cdp_status *st);

static inline uint64_t cdp_mdpacket_offset(const cdp_mdpacket *p) { return p->lba * CDP_MD_SECTOR + p->skew_bytes; }
#endif

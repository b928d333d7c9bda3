/* A channel: one client connection of a gateway, and what carries its requests out in another process.
 *
 *   gateway --- packets [done, head) to be carried out ---> daemon
 *           <-- packets [answered, done) carried out ------
 *   [tail, answered) are answered and kept: changes that only the daemon's memory has so far (see invariant 3)
 *
 * Shared memory: this header, a ring of MDPackets, and two buffer groups: RECEIVE, which the client's stream is
 * received into and written from, and REPLY, which reads are read into and sent from. Data is never copied between the
 * processes. A doorbell (a stream socket; one byte) wakes a side that said that it sleeps, and tells of the other
 * side's death. Each owner has a doorbell of its own.
 *
 * Invariants
 *  1. Positions only grow; tail <= answered <= done <= head <= tail + CDP_CHANNEL_SLOTS. Packet n lies in slot n mod
 *     that. The gateway writes head, answered, tail and the packets from head on; the daemon writes done and, in the
 *     packets from done on, status and seq. A replay (below) writes seq in older ones.
 *  2. Packets are carried out and answered in their order.
 *  3. A change is kept, with its data, until written_seq says that its record is in a file. Its packet's seq is set
 *     before its record can get there. So after the death of a daemon: 0 < seq <= the last seq in the log: done;
 *     everything else that changes is to be done again, answered or not, in the order of seq; then those with seq 0.
 *  4. While `replaying`, nothing is released.
 *  5. A daemon touches the channel while `epoch` is its own, and no longer.
 *  6. Who sleeps says for which epoch. Only a ring on that epoch's doorbell, or the sleeper, takes it back: an owner
 *     that was replaced can neither use up the ring that its successor or the gateway waits for, nor its successor's
 *     sleep. A gateway that changes doorbells rings the new one in any case: what it rang before went to the old one.
 * Both sides are one user's processes; still the daemon checks every reference before it follows it. */
#ifndef CDP_CHANNEL_H
#define CDP_CHANNEL_H
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "channel/mdpacket.h"

#define CDP_CHANNEL_MAGIC 0x4843504443ull /* "CDPCH" */
#define CDP_CHANNEL_VERSION 3u
#define CDP_CHANNEL_SLOTS 16384u              /* 4 KiB writes as many as the log's pool holds */
/* More than that pool (64 MiB), so that a slow device makes requests wait no sooner than with cdp serve; and the
 * largest request, with what comes with it. */
#define CDP_CHANNEL_RECEIVE_BYTES (72u << 20)
#define CDP_CHANNEL_REPLY_BYTES (34u << 20)    /* the largest reply */
#define CDP_CHANNEL_HEAD_BYTES 4096u
/* In a seq: found missing from the log, and not replayed yet. Greater than any seq, so that a second failover in the
 * middle keeps the order. */
#define CDP_CHANNEL_LOST (1ull << 63)
/* An op besides MDPacket's: fill the reply group with the range's cdp_extents, once for each metadata context of the
 * connection, base:allocation first where it is one. Each has an equal part of the group; the first cdp_extent of a
 * part has in `length` how many follow. */
#define CDP_CHANNEL_MAP 0x80u
#define CDP_CHANNEL_EXTENTS 2048u  /* the most that the group holds */

enum cdp_channel_group { CDP_CHANNEL_RECEIVE = 0, CDP_CHANNEL_REPLY = 1 };

typedef struct cdp_channel {
    /* Constant. */
    uint64_t magic;
    uint32_t version;
    uint32_t n_slots;
    uint64_t bytes; /* of all of it */
    uint8_t pad0[104];
    /* The gateway's. */
    uint64_t head, answered, tail;
    uint32_t gateway_sleeps; /* 0, or the epoch whose owner is to ring when done has moved */
    uint32_t want_written;   /* no room: write out what is kept */
    uint32_t epoch;
    uint32_t replaying;      /* raised by the gateway, lowered by the daemon */
    uint8_t pad1[88];
    /* The daemon's. */
    uint64_t done, written_seq;
    uint32_t daemon_sleeps; /* 0, or the epoch of an owner that is to be rung when head has moved */
    uint8_t pad2[108];
} cdp_channel;
static_assert(sizeof(cdp_channel) == 3 * 128, "a cache line pair a writer");

#define CDP_CHANNEL_PACKETS_AT CDP_CHANNEL_HEAD_BYTES
#define CDP_CHANNEL_RECEIVE_AT (CDP_CHANNEL_PACKETS_AT + CDP_CHANNEL_SLOTS * CDP_MD_BYTES)
#define CDP_CHANNEL_REPLY_AT (CDP_CHANNEL_RECEIVE_AT + CDP_CHANNEL_RECEIVE_BYTES)
#define CDP_CHANNEL_BYTES ((uint64_t)CDP_CHANNEL_REPLY_AT + CDP_CHANNEL_REPLY_BYTES)

static inline cdp_mdpacket *cdp_channel_packet(cdp_channel *c, uint64_t n)
{
    return (cdp_mdpacket *)((uint8_t *)c + CDP_CHANNEL_PACKETS_AT) + n % CDP_CHANNEL_SLOTS;
}
static inline uint8_t *cdp_channel_receive(cdp_channel *c) { return (uint8_t *)c + CDP_CHANNEL_RECEIVE_AT; }
static inline uint8_t *cdp_channel_reply(cdp_channel *c) { return (uint8_t *)c + CDP_CHANNEL_REPLY_AT; }

/* The data of a packet, or NULL where its reference is none of `group`, or reaches past it. */
static inline uint8_t *cdp_channel_data(cdp_channel *c, const cdp_mdpacket *p, uint32_t group)
{
    uint64_t bytes = group == CDP_CHANNEL_RECEIVE ? CDP_CHANNEL_RECEIVE_BYTES : CDP_CHANNEL_REPLY_BYTES;
    if (p->n_bgs != 1 || p->bg[0].slot != group || (uint64_t)p->bg[0].offset_bytes + p->bg[0].length_bytes > bytes)
        return 0;
    return (group == CDP_CHANNEL_RECEIVE ? cdp_channel_receive(c) : cdp_channel_reply(c)) + p->bg[0].offset_bytes;
}

static inline void cdp_channel_init(cdp_channel *c)
{
    c->magic = CDP_CHANNEL_MAGIC;
    c->version = CDP_CHANNEL_VERSION;
    c->n_slots = CDP_CHANNEL_SLOTS;
    c->bytes = CDP_CHANNEL_BYTES;
}
static inline int cdp_channel_is_one(const cdp_channel *c)
{
    return c->magic == CDP_CHANNEL_MAGIC && c->version == CDP_CHANNEL_VERSION && c->n_slots == CDP_CHANNEL_SLOTS &&
           c->bytes == CDP_CHANNEL_BYTES;
}

/* --- words that one side writes and the other reads --------------------------------------------------------------- */

static inline uint64_t cdp_channel_get(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void cdp_channel_set(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t cdp_channel_get32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void cdp_channel_set32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }

/* Packet n is sent again. */
static inline void cdp_channel_mark(cdp_channel *c, uint64_t n)
{
    __atomic_fetch_or(&cdp_channel_packet(c, n)->flags, CDP_MD_REPLAY, __ATOMIC_RELEASE);
}

/* --- the doorbell ------------------------------------------------------------------------------------------------- */

/* A full socket has a byte already; a dead one is noticed when waiting. */
static inline void cdp_channel_ring(int door) { (void)!send(door, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); }

/* After a position was moved: wake the other side if it sleeps. A sleeper says so and then looks at the position once
 * more, so one of the two sees the other's store. */
static inline void cdp_channel_ring_daemon(cdp_channel *c, int door)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (door >= 0 && __atomic_load_n(&c->daemon_sleeps, __ATOMIC_RELAXED) &&
        __atomic_exchange_n(&c->daemon_sleeps, 0, __ATOMIC_SEQ_CST))
        cdp_channel_ring(door);
}
static inline void cdp_channel_ring_gateway(cdp_channel *c, int door, uint32_t epoch)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->gateway_sleeps, __ATOMIC_RELAXED) == epoch &&
        __atomic_compare_exchange_n(&c->gateway_sleeps, &epoch, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        cdp_channel_ring(door);
}

/* The owner of `epoch` is about to sleep. Epochs grow: one that was replaced leaves its successor's word alone. */
static inline void cdp_channel_daemon_sleeps(cdp_channel *c, uint32_t epoch)
{
    uint32_t is = __atomic_load_n(&c->daemon_sleeps, __ATOMIC_RELAXED);
    while (is < epoch && !__atomic_compare_exchange_n(&c->daemon_sleeps, &is, epoch, 0, __ATOMIC_SEQ_CST,
                                                      __ATOMIC_RELAXED)) {}
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void cdp_channel_daemon_wakes(cdp_channel *c, uint32_t epoch)
{
    __atomic_compare_exchange_n(&c->daemon_sleeps, &epoch, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Take what was rung. 0: the other side is gone. */
static inline int cdp_channel_drain(int door)
{
    char some[64];
    for (;;) {
        ssize_t n = recv(door, some, sizeof some, MSG_DONTWAIT);
        if (n == 0)
            return 0;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        if ((size_t)n < sizeof some)
            return 1;
    }
}
#endif

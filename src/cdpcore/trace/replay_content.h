/* What a replayed write puts on the disk, so that every byte can be computed again from (key, change, place) alone.
 *
 * A sector (512 bytes at a multiple of 512) that change `change` of a replay with `key` wrote holds 64 little-endian
 * words:
 *     word 0  change        number of the change within its volume's replay, from 1
 *     word 1  sector        its number on the disk
 *     word 2  key
 *     word j  m + j * 0x9e3779b97f4a7c15, for j = 3..63, where m = mix(mix(mix(key) ^ sector) ^ change)
 *     mix(z)  is the finaliser of splitmix64: z ^= z >> 30, * 0xbf58476d1ce4e5b9, z ^= z >> 27, * 0x94d049bb133111eb,
 *             z ^= z >> 31
 * A write that begins or ends inside a sector puts the bytes of the pattern that lie in its range, and no others. So
 * every byte of the disk depends on the last change that covered it and on nothing else, and a sector that holds the
 * wrong thing says what it holds: an older change (stale), another sector (misdirected), another replay.
 *
 * Pure functions over caller-owned memory, any thread. 512 bytes take some 15 ns. */
#ifndef CDP_REPLAY_CONTENT_H
#define CDP_REPLAY_CONTENT_H
#include <stdint.h>

#define CDP_REPLAY_SECTOR 512u

/* The pattern of byte range [offset, offset + length) into `out`. */
void cdp_replay_fill(uint8_t *out, uint64_t offset, uint64_t length, uint64_t key, uint64_t change);

/* Bytes at the beginning of `buf` (which lies at `offset`) that hold the pattern: `length` when all do. */
uint64_t cdp_replay_match(const uint8_t *buf, uint64_t offset, uint64_t length, uint64_t key, uint64_t change);

/* What a whole sector claims to be: its change, if it is the pattern of a change, this sector and this key; else 0. */
uint64_t cdp_replay_claim(const uint8_t *sector_bytes, uint64_t sector, uint64_t key);

/* Bytes at the beginning of `buf` that are zero. */
uint64_t cdp_replay_zeros(const uint8_t *buf, uint64_t length);

#endif

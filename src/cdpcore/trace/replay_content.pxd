"""What a replayed write puts on the disk (trace/replay_content.h)."""
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "trace/replay_content.h" nogil:
    void cdp_replay_fill(uint8_t *out, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
    uint64_t cdp_replay_match(const uint8_t *buf, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
    uint64_t cdp_replay_claim(const uint8_t *sector_bytes, uint64_t sector, uint64_t key)
    uint64_t cdp_replay_zeros(const uint8_t *buf, uint64_t length)

"""A channel between a gateway and a time store daemon: the memory that both see (channel/channel.h says what is in
it)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.channel.mdpacket cimport cdp_mdpacket


cdef extern from "channel/channel.h" nogil:
    enum:
        CDP_CHANNEL_SLOTS
        CDP_CHANNEL_RECEIVE_BYTES
        CDP_CHANNEL_REPLY_BYTES
        CDP_CHANNEL_RECEIVE
        CDP_CHANNEL_REPLY
        CDP_CHANNEL_MAP
        CDP_CHANNEL_EXTENTS
    const uint64_t CDP_CHANNEL_BYTES
    const uint64_t CDP_CHANNEL_LOST
    ctypedef struct cdp_channel:
        uint64_t head, answered, tail
        uint32_t gateway_sleeps, want_written, epoch, replaying
        uint64_t done, written_seq
        uint32_t daemon_sleeps
    cdp_mdpacket *cdp_channel_packet(cdp_channel *c, uint64_t n)
    uint8_t *cdp_channel_receive(cdp_channel *c)
    uint8_t *cdp_channel_reply(cdp_channel *c)
    uint8_t *cdp_channel_data(cdp_channel *c, const cdp_mdpacket *p, uint32_t group)
    void cdp_channel_init(cdp_channel *c)
    int cdp_channel_is_one(const cdp_channel *c)
    uint64_t cdp_channel_get(const uint64_t *p)
    void cdp_channel_set(uint64_t *p, uint64_t v)
    uint32_t cdp_channel_get32(const uint32_t *p)
    void cdp_channel_set32(uint32_t *p, uint32_t v)
    void cdp_channel_ring(int door)
    void cdp_channel_ring_daemon(cdp_channel *c, int door)
    void cdp_channel_ring_gateway(cdp_channel *c, int door, uint32_t epoch)
    void cdp_channel_daemon_sleeps(cdp_channel *c, uint32_t epoch)
    void cdp_channel_daemon_wakes(cdp_channel *c, uint32_t epoch)
    int cdp_channel_drain(int door)
    void cdp_channel_mark(cdp_channel *c, uint64_t n)


cdef class Channel:
    # constant after construction
    cdef cdp_channel *c
    cdef int memory_fd

"""The slots that one log has (log/slots.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.system.os_table cimport cdp_os


cdef extern from "log/slots.h" nogil:
    enum:
        CDP_NO_SLOT
        CDP_MAX_SLOTS
        CDP_SLOT_MISSES
        CDP_BREAK_PINS
        CDP_BREAK_CHECK
        CDP_BREAK_BOUND
    const uint64_t CDP_FRAMES_OPEN
    ctypedef struct cdp_slot:
        uint8_t *mem
        uint64_t first
        uint64_t sectors
        uint64_t end_frame
        uint32_t newer
        unsigned char looked
        uint32_t use
    ctypedef struct cdp_slots:
        uint64_t slot_bytes
        uint64_t misses
        uint32_t cap
        cdp_slot *at
        uint32_t n
        uint32_t oldest
        uint32_t newest
        uint32_t broken
    int cdp_slots_init(cdp_slots *t, const cdp_os *os, pthread_mutex_t *mutex, pthread_cond_t *freed,
                       const uint64_t *written, uint64_t slot_bytes, uint32_t cap)
    uint32_t cdp_slots_open(cdp_slots *t, uint8_t *mem, uint64_t first)
    void cdp_slots_mark(cdp_slots *t, uint64_t first, uint64_t bound)
    void cdp_slots_close(cdp_slots *t, uint64_t sectors, uint64_t end_frame)
    uint8_t *cdp_slots_take(cdp_slots *t, int claim)
    void cdp_slots_look(cdp_slots *t)
    uint8_t *cdp_slots_take_idle(cdp_slots *t)
    uint32_t cdp_slots_unwritten(const cdp_slots *t)
    uint8_t *cdp_slots_pin(cdp_slots *t, uint64_t loc, uint32_t *token)
    void cdp_slots_unpin(cdp_slots *t, uint32_t token)

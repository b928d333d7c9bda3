"""MDPacket: the C struct (channel/mdpacket.h) and its Python face."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.errors cimport cdp_status


cdef extern from "channel/mdpacket.h" nogil:
    enum:
        CDP_MD_VERSION
        CDP_MD_BYTES
        CDP_MD_BGS
        CDP_MD_SECTOR
        CDP_MD_READ
        CDP_MD_WRITE
        CDP_MD_ZERO
        CDP_MD_TRIM
        CDP_MD_FLUSH
        CDP_MD_INQUIRE
        CDP_MD_REPLAY
        CDP_MD_FUA
        CDP_MD_RESPONSE
        CDP_MD_READ_ONLY
    ctypedef struct cdp_bg_ref:
        uint32_t slot
        uint32_t generation
        uint32_t offset_bytes
        uint32_t length_bytes
    ctypedef struct cdp_mdpacket:
        uint8_t version
        uint8_t op
        uint16_t flags
        uint32_t lun
        uint64_t lba
        uint64_t length_bytes
        uint64_t cookie
        uint64_t timestamp_ns
        uint64_t seq
        uint16_t skew_bytes
        uint8_t n_bgs
        uint8_t status
        uint16_t sys_errno
        uint16_t bg_home
        uint16_t source_id
        uint16_t source_instance
        uint32_t epoch
        cdp_bg_ref *bg
    int cdp_mdpacket_check(const cdp_mdpacket *p, uint64_t size_bytes, cdp_status *st)
    uint64_t cdp_mdpacket_offset(const cdp_mdpacket *p)


cdef class MDPacket:
    # constant after construction
    cdef cdp_mdpacket *p        # own, or in the memory that `memory` keeps
    cdef object memory          # None: own
    # the caller's to guard
    cdef cdp_mdpacket own

"""MDPackets carried out on a disk: what a time store daemon does with a request that came by the portable API.

Invariants
  1. A packet is checked (channel/mdpacket.h) before anything else looks at it, and is one step in the disk's serial
  order, also where its data
     is in several buffer groups.
  2. seq is stored in the packet itself before the record can reach a file, so in shared memory it outlives this
     process.
Threading: any thread; the GIL is dropped while the disk works. The caller holds the packet and the buffers.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cdpcore.base.status cimport CDP_INVALID, CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_fail_os, cdp_status
from cdpcore.base.target cimport CDP_FUA, CDP_HOLE, cdp_target
from cdpcore.channel.mdpacket cimport (CDP_MD_BGS, CDP_MD_FLUSH, CDP_MD_FUA, CDP_MD_INQUIRE, CDP_MD_READ,
                                       CDP_MD_READ_ONLY, CDP_MD_TRIM, CDP_MD_WRITE, MDPacket, cdp_mdpacket,
                                       cdp_mdpacket_check, cdp_mdpacket_offset)


def execute(capsule, MDPacket packet not None, list buffers not None, bint read_only=False):
    """Carry out a request and make it its own answer.

    capsule    PyCapsule "cdpcore.target"
    packet     any request; a bad one is answered with CDP_INVALID
    buffers    its buffer groups, mapped, in order: contiguous; writable for a READ
    read_only  changes are answered with CDP_UNAVAILABLE/EPERM
    Returns why it failed, or "" where it did not.
    """
    cdef const cdp_target *t = <const cdp_target *>PyCapsule_GetPointer(capsule, b"cdpcore.target")
    cdef Py_buffer held[CDP_MD_BGS]
    cdef uint32_t n = 0
    cdef cdp_status st
    cdef int rc = cdp_mdpacket_check(packet.p, t.size_bytes, &st)
    try:
        if rc == CDP_OK and <uint32_t>len(buffers) != packet.p.n_bgs:
            rc = cdp_fail(&st, CDP_INVALID, EINVAL, 0, b"packet whose buffers are not all mapped")
        if rc == CDP_OK:
            for buffer in buffers:
                PyObject_GetBuffer(buffer, &held[n], PyBUF_WRITABLE if packet.p.op == CDP_MD_READ else PyBUF_SIMPLE)
                n += 1
                if <uint64_t>held[n - 1].len != packet.p.bg[n - 1].length_bytes:
                    rc = cdp_fail(&st, CDP_INVALID, EINVAL, 0, b"a buffer of another length than the packet says")
        if rc == CDP_OK and CDP_MD_WRITE <= packet.p.op <= CDP_MD_TRIM and (read_only or t.read_only):
            rc = cdp_fail(&st, CDP_UNAVAILABLE, 1, 0, b"the LUN is read-only")
        if rc == CDP_OK:
            with nogil:
                rc = run(t, packet.p, held, n, &st)
    finally:
        while n:
            n -= 1
            PyBuffer_Release(&held[n])
    if packet.p.op == CDP_MD_INQUIRE and rc == CDP_OK:
        packet.p.length_bytes = t.size_bytes
        packet.p.flags |= CDP_MD_READ_ONLY if read_only or t.read_only else 0
    packet.answer(<uint8_t>rc, 0 if rc == CDP_OK else <uint32_t>st.sys_errno & 0xffff)
    return "" if rc == CDP_OK else (<bytes>st.where).decode()


cdef int run(const cdp_target *t, cdp_mdpacket *p, Py_buffer *held, uint32_t n, cdp_status *st) noexcept nogil:
    cdef uint64_t at = cdp_mdpacket_offset(p), done = 0
    cdef uint32_t flags = CDP_FUA if p.flags & CDP_MD_FUA else 0, i
    cdef uint8_t *whole
    cdef int rc
    if p.op == CDP_MD_FLUSH:
        return t.flush(t.ctx, st)
    if p.op == CDP_MD_INQUIRE:
        return CDP_OK
    if p.op == CDP_MD_READ or p.op == CDP_MD_WRITE:
        whole = <uint8_t *>held[0].buf
        if n > 1:   # one step in the serial order: through one buffer, which costs a copy
            whole = <uint8_t *>malloc(p.length_bytes)
            if whole == NULL:
                return cdp_fail_os(st, -ENOMEM, at, b"gathering a packet's buffers")
        if p.op == CDP_MD_WRITE:
            for i in range(n if n > 1 else 0):
                memcpy(whole + done, held[i].buf, held[i].len)
                done += held[i].len
            if t.pwrite_seq != NULL:
                rc = t.pwrite_seq(t.ctx, whole, at, p.length_bytes, flags, &p.seq, st)
            else:
                rc = t.pwrite(t.ctx, whole, at, p.length_bytes, flags, st)
        else:
            rc = t.pread(t.ctx, whole, at, p.length_bytes, st)
            for i in range(n if n > 1 else 0):
                memcpy(held[i].buf, whole + done, held[i].len)
                done += held[i].len
        if n > 1:
            free(whole)
        return rc
    if p.op == CDP_MD_TRIM:
        flags |= CDP_HOLE
    if t.zero_seq != NULL:
        return t.zero_seq(t.ctx, at, p.length_bytes, flags, &p.seq, st)
    return t.zero(t.ctx, at, p.length_bytes, flags, st)

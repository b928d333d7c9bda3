# cython: autotestdict=False, auto_pickle=False
"""CRC-32C for Python (base/crc32c.h): the checksum of everything on disk.

Threading: any.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

from cdpcore.base.crc32c cimport cdp_crc32c, cdp_crc32c_name, cdp_crc32c_portable

cdef Py_ssize_t LONG = 65536    # bytes from which a checksum is worth giving the GIL away


cdef uint32_t _crc(object data, uint32_t crc, bint portable) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len >= LONG:
            with nogil:
                crc = cdp_crc32c_portable(crc, view.buf, view.len) if portable else cdp_crc32c(crc, view.buf, view.len)
        else:
            crc = cdp_crc32c_portable(crc, view.buf, view.len) if portable else cdp_crc32c(crc, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return crc


def crc32c(data, crc=0):
    """CRC-32C of a buffer, continuing from `crc`, the checksum of what came before it.

    data: contiguous bytes-like object. Returns 0 <= checksum < 2**32. Threading: any; the GIL is released for 64 KiB
    and more, so the buffer must not be resized meanwhile (its exporter sees to that).
    """
    return _crc(data, crc, False)


def crc32c_portable(data, crc=0):
    """As crc32c, always by the implementation that needs no special instructions."""
    return _crc(data, crc, True)


def crc32c_name():
    """The name of the implementation that crc32c uses on this machine."""
    return cdp_crc32c_name().decode()

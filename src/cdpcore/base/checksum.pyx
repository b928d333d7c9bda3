# cython: autotestdict=False, auto_pickle=False
"""CRC-32C for Python (base/crc32c.h): the checksum of everything on disk.

Threading: any.
"""
from cpython.array cimport array
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

from cdpcore.base.crc32c cimport (CDP_CRC32C_BLOCK, cdp_crc32c, cdp_crc32c_blocks, cdp_crc32c_fn,
                                  cdp_crc32c_implementation)

cdef Py_ssize_t LONG = 65536    # bytes from which a checksum is worth giving the GIL away


cdef uint32_t _crc(object data, uint32_t crc, cdp_crc32c_fn fn) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len >= LONG:
            with nogil:
                crc = fn(crc, view.buf, view.len)
        else:
            crc = fn(crc, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return crc


def crc32c(data, crc=0):
    """CRC-32C of a buffer, continuing from `crc`, the checksum of what came before it.

    data: contiguous bytes-like object. Returns 0 <= checksum < 2**32. Threading: any; the GIL is released for 64 KiB
    and more, so the buffer must not be resized meanwhile (its exporter sees to that).
    """
    return _crc(data, crc, cdp_crc32c)


def crc32c_blocks(data):
    """(CRC-32C of a buffer, those of its whole blocks of 4 KiB), in one pass. data: as of crc32c."""
    cdef Py_buffer view
    cdef array sums
    cdef uint32_t crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        sums = array("I", bytes(4 * (view.len // CDP_CRC32C_BLOCK)))
        crc = cdp_crc32c_blocks(view.buf, view.len, sums.data.as_uints)
        return crc, sums.tolist()
    finally:
        PyBuffer_Release(&view)


def crc32c_by(str name, data, crc=0):
    """As crc32c, by one of the implementations that crc32c_names() lists. Raises KeyError for another."""
    cdef cdp_crc32c_fn fn = NULL
    cdef uint32_t i = 0
    while (found := named(i, &fn)) != name:
        if found is None:
            raise KeyError(name)
        i += 1
    return _crc(data, crc, fn)


def crc32c_names():
    """The implementations that this machine can run; the first one is what crc32c uses."""
    cdef cdp_crc32c_fn fn
    cdef uint32_t i = 0
    names = []
    while (name := named(i, &fn)) is not None:
        names.append(name)
        i += 1
    return tuple(names)


cdef named(uint32_t i, cdp_crc32c_fn *fn):
    cdef const char *name = cdp_crc32c_implementation(i, fn)
    return name.decode() if name != NULL else None

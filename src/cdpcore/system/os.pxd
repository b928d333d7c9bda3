"""The OS table for Cython: the C struct, and the objects that own one.

An object that keeps `Os.table` keeps the Os object, too (a simulated table dies with it).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cdpcore.system.os_sim cimport cdp_sim
from cdpcore.system.os_table cimport cdp_os


# An operating system. `table` is constant after construction and valid while the object lives.
cdef class Os:
    cdef const cdp_os *table


cdef class PosixOs(Os):
    pass


# A simulated one. What uses its table must be gone before it is.
cdef class SimOs(Os):
    cdef cdp_sim *sim

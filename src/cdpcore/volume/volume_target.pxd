"""A volume, or a time image of it, as a disk that a front end can be given (see base/target.h)."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.target cimport cdp_target
from cdpcore.index.view cimport View
from cdpcore.volume.core cimport VolumeCore


cdef class Target:
    # constant after construction
    cdef VolumeCore core
    cdef View view                  # None: the current content
    cdef object pin
    cdef cdp_target t

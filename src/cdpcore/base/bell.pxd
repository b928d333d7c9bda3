"""A bell for the process's maintenance."""

# Any thread, no GIL, no lock but the bell's own: work has come up.
cdef void ring() noexcept nogil

"""What a gateway's connection asks of the system (channel/gate_sock.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "channel/gate_sock.h" nogil:
    enum:
        GATE_SOCK
        GATE_DOOR
        GATE_WAKE
    int gate_swap(int *p, int v)
    uint32_t gate_poll(int sock, int door, int wake, int ms)
    void gate_release(void *p, uint64_t n)

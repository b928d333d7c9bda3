"""Counts the calls inside an object, so that close() can wait for them (base/gate.h)."""


cdef extern from "base/gate.h" nogil:
    ctypedef struct cdp_gate:
        pass
    int cdp_gate_enter(cdp_gate *g)
    void cdp_gate_leave(cdp_gate *g)
    int cdp_gate_is_closed(cdp_gate *g)
    void cdp_gate_close(cdp_gate *g)
    void cdp_gate_shut(cdp_gate *g)

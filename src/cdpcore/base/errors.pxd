"""The seam where a nogil status becomes a Python exception."""
from cdpcore.base.status cimport cdp_status


# Raises the exception for a failed status; returns rc where rc is CDP_OK. `what` names the object (a path) for the message.
cdef int check(int rc, cdp_status *st, object what) except -1

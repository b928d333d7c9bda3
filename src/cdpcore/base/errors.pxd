"""The seam where a nogil status becomes a Python exception."""
from cdpcore.base.status cimport cdp_status


# Raises the exception for a failed status; returns rc where that is CDP_OK. `what`: the object (a path).
cdef int check(int rc, cdp_status *st, object what) except -1

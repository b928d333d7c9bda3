# cython: autotestdict=False
"""An open file or block device of an operating system (real or simulated), for cold paths.

Invariants
 1. Every call runs without the GIL and reports failure through cdpcore.base.errors.check, with the path in the message.
 2. A handle is closed once. close() while another thread is inside a call lets that call finish; it then closes.

Threading: a File may be used from any thread; its fields change only under the GIL.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint64_t
cimport cython

from cdpcore.base.errors cimport check
from cdpcore.base.status cimport cdp_fail_os, cdp_status

from os import fsencode

from cdpcore.base.errors import Busy, Closed, InvalidRequest

_MAX_TRANSFER_BYTES = 1 << 30


cdef int done(int64_t rc, const char *where, object path, uint64_t offset=0) except -1:
    cdef cdp_status st
    if rc >= 0:
        return 0
    cdp_fail_os(&st, rc, offset, where)
    return check(st.code, &st, path)


cdef File file_of_handle(object os, const cdp_os *table, int fd, object path, bint direct):
    cdef File f = File.__new__(File)
    f.os = os
    f.table = table
    f.path = path
    f.direct = direct
    f.fd = fd
    f.dead = False
    return f


@cython.final
@cython.no_gc_clear
cdef class File:
    """An open file or block device, from Os.open. A context manager; using it after close() raises Closed."""

    def __cinit__(self):
        self.fd = -1
        self.dead = True

    def __reduce__(self):
        raise TypeError("an open file cannot be pickled")

    def __dealloc__(self):
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)

    cdef int enter(self) except -1:
        if self.dead:
            raise Closed(f"{self.path}: the file was closed" if self.path else "the file was never opened")
        self.running += 1
        return 0

    cdef int leave(self) except -1:
        cdef int fd = self.fd
        cdef int rc
        self.running -= 1
        if not self.dead or self.running:
            return 0
        self.fd = -1
        with nogil:
            rc = self.table.close(self.table.ctx, fd)
        return done(rc, "close", self.path)

    @property
    def closed(self):
        """Whether close() was called."""
        return bool(self.dead)

    def close(self):
        """Close; releases the lock. A second close does nothing. Raises Unavailable where the OS reports an error."""
        if self.dead:
            return
        self.enter()
        self.dead = True
        self.leave()

    def __enter__(self):
        if self.dead:
            raise Closed(f"{self.path}: the file was closed")
        return self

    def __exit__(self, kind, error, traceback):
        self.close()

    def size(self):
        """Size in bytes of the file or block device."""
        cdef int64_t rc
        self.enter()
        try:
            with nogil:
                rc = self.table.size(self.table.ctx, self.fd)
            done(rc, "size", self.path)
        finally:
            self.leave()
        return rc

    def changed_ns(self):
        """When the file's content was changed last, in ns since 1970 UTC; 0: not known, as of a block device."""
        cdef uint64_t ns
        self.enter()
        try:
            with nogil:
                ns = self.table.changed_ns(self.table.ctx, self.fd)
        finally:
            self.leave()
        return ns

    def is_at(self, str path not None):
        """Whether the path leads to this very file or device. Raises what the OS says where that is not known."""
        cdef bytes name = fsencode(path)
        cdef const char *text = name
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.is_at(self.table.ctx, self.fd, text)
            done(rc, "stat", path)
        finally:
            self.leave()
        return rc == 1

    def pread(self, uint64_t length_bytes, uint64_t offset_bytes):
        """Up to 1 GiB at an offset, as a new bytes; shorter only at the end of the file."""
        cdef bytes out
        cdef void *bounce
        cdef int64_t rc
        if length_bytes > _MAX_TRANSFER_BYTES:
            raise InvalidRequest(f"{self.path}: a read of {length_bytes} bytes; the most is {_MAX_TRANSFER_BYTES}")
        self.enter()
        try:
            if self.direct and length_bytes:
                with nogil:
                    bounce = self.table.pages(self.table.ctx, length_bytes)
                if bounce == NULL:
                    raise MemoryError(f"{length_bytes} bytes for a read")
                try:
                    with nogil:
                        rc = self.table.pread(self.table.ctx, self.fd, bounce, length_bytes, offset_bytes)
                    done(rc, "read", self.path, offset_bytes)
                    return PyBytes_FromStringAndSize(<char *>bounce, <Py_ssize_t>rc)
                finally:
                    self.table.free_pages(self.table.ctx, bounce, length_bytes)
            out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length_bytes)
            bounce = PyBytes_AS_STRING(out)
            with nogil:
                rc = self.table.pread(self.table.ctx, self.fd, bounce, length_bytes, offset_bytes)
            done(rc, "read", self.path, offset_bytes)
            return out if <uint64_t>rc == length_bytes else out[:rc]
        finally:
            self.leave()

    def pread_into(self, buffer, uint64_t offset_bytes):
        """Fill a writable buffer from an offset; returns the bytes read, fewer only at the end of the file."""
        cdef Py_buffer view
        cdef int64_t rc
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.enter()
            try:
                with nogil:
                    rc = self.table.pread(self.table.ctx, self.fd, view.buf, <uint64_t>view.len, offset_bytes)
                done(rc, "read", self.path, offset_bytes)
            finally:
                self.leave()
        finally:
            PyBuffer_Release(&view)
        return rc

    def pwrite(self, data, uint64_t offset_bytes):
        """Write all of a bytes-like at an offset; returns its length. Durable after datasync.

        A direct file wants data at an aligned address (an mmap has one, a bytes has not).
        """
        cdef Py_buffer view
        cdef int64_t rc
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.enter()
            try:
                with nogil:
                    rc = self.table.pwrite(self.table.ctx, self.fd, view.buf, <uint64_t>view.len, offset_bytes)
                done(rc, "write", self.path, offset_bytes)
            finally:
                self.leave()
        finally:
            PyBuffer_Release(&view)
        return rc

    def datasync(self):
        """Make data and size durable. After an error nothing that was not durable before can be relied on."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.datasync(self.table.ctx, self.fd)
            done(rc, "sync", self.path)
        finally:
            self.leave()

    def truncate(self, uint64_t size_bytes):
        """Set the size; what is added reads as zeros."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.truncate(self.table.ctx, self.fd, size_bytes)
            done(rc, "truncate", self.path, size_bytes)
        finally:
            self.leave()

    def allocate(self, uint64_t offset_bytes, uint64_t length_bytes):
        """Reserve space where the file system can and extend the size to the range's end; data is kept."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.allocate(self.table.ctx, self.fd, offset_bytes, length_bytes)
            done(rc, "allocate", self.path, offset_bytes)
        finally:
            self.leave()

    def punch(self, uint64_t offset_bytes, uint64_t length_bytes):
        """Free the range's space; it reads as zeros, the size stays. Raises Unavailable where the file system
        cannot."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.punch(self.table.ctx, self.fd, offset_bytes, length_bytes)
            done(rc, "punch", self.path, offset_bytes)
        finally:
            self.leave()

    def next_data(self, uint64_t offset_bytes):
        """The first range at or after an offset that may hold data, as (start, end); None: only holes up to the end."""
        cdef uint64_t start = 0
        cdef uint64_t end = 0
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.next_data(self.table.ctx, self.fd, offset_bytes, &start, &end)
            done(rc, "look for data", self.path, offset_bytes)
        finally:
            self.leave()
        return (start, end) if rc else None

    def lock(self):
        """Take the exclusive lock of the file, kept until close. Raises Busy where another handle has it."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.table.lock(self.table.ctx, self.fd)
            if rc == -EAGAIN:
                raise Busy(f"{self.path}: locked by another user", "close the other one first")
            done(rc, "lock", self.path)
        finally:
            self.leave()

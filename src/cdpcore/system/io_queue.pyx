"""A queue of operations on files as Python sees it. The engine uses the OS table's calls (system/io_queue.h) directly.

Threading: submitting from any thread, under the GIL; one thread at a time completes, and waits without it.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcpy, memset
cimport cython

from cdpcore.system.file cimport File, done
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport CDP_DIRECT_ALIGN

from cdpcore.base.errors import InvalidRequest, Unavailable

MAX_DEPTH = CDP_IO_MAX_DEPTH


cdef struct operation:
    cdp_io io
    void *file          # a reference
    void *tag           # a reference
    uint64_t room_bytes


@cython.final
@cython.no_gc_clear   # what is in flight goes back to `os` in __dealloc__
cdef class IoQueue:
    """Reads, writes and syncs of files of one Os, up to `depth` of them in flight.

    os: an Os. depth: 1 to MAX_DEPTH. Each operation has a `tag`, any object, which complete() gives back with its
    result. A file must not be closed, nor a buffer changed, while it has an operation in flight (data is copied, so
    callers need not care).
    """
    cdef Os os
    cdef cdp_ioq *q
    cdef readonly uint32_t depth
    cdef readonly uint32_t in_flight

    def __cinit__(self, Os os not None, uint32_t depth=32):
        self.os = os
        self.depth = depth
        self.q = os.table.queue(os.table.ctx, depth)
        if self.q == NULL:
            raise InvalidRequest(f"a queue of {depth} operations", f"use 1 to {MAX_DEPTH}")

    def __dealloc__(self):
        if self.q != NULL:
            while self.in_flight:
                self._complete(True)
            self.os.table.free_queue(self.os.table.ctx, self.q)

    def read(self, File file not None, uint64_t length_bytes, uint64_t offset_bytes, tag=None):
        """Submit a read. Its result: the bytes, fewer only at the end of the file."""
        self._submit(file, CDP_IO_READ, None, length_bytes, offset_bytes, False, tag)

    def write(self, File file not None, bytes data not None, uint64_t offset_bytes, tag=None, *, bint durable=False):
        """Submit a write. Its result: the number of bytes. durable: it is when the write completes."""
        self._submit(file, CDP_IO_WRITE, data, <uint64_t>len(data), offset_bytes, durable, tag)

    def datasync(self, File file not None, tag=None):
        """Submit a sync of what has completed so far. Its result: 0."""
        self._submit(file, CDP_IO_DATASYNC, None, 0, 0, False, tag)

    def complete(self, bint wait=True):
        """A list of (tag, result): at least one where `wait` is set and something is in flight. An operation that
        failed has an OSError-like CdpError as its result, which is not raised."""
        return self._complete(wait)

    @property
    def fd(self):
        """A descriptor to poll for reading: complete(wait=False) would give something. -1: none."""
        return self.os.table.queue_fd(self.os.table.ctx, self.q)

    cdef int _submit(self, File file, uint32_t op, bytes data, uint64_t n, uint64_t off, bint durable,
                     object tag) except -1:
        cdef operation *o
        cdef uint32_t taken
        if file.table != self.os.table:
            raise InvalidRequest(f"{file.path} is not a file of the queue's system", "use files that its Os opened")
        file.enter()
        o = <operation *>PyMem_Malloc(sizeof(operation))
        if o != NULL:
            memset(o, 0, sizeof(operation))
            o.room_bytes = (n // CDP_DIRECT_ALIGN + 1) * CDP_DIRECT_ALIGN
            o.io.buf = self.os.table.pages(self.os.table.ctx, o.room_bytes)
        if o == NULL or o.io.buf == NULL:
            PyMem_Free(o)
            file.leave()
            raise MemoryError("a buffer for an operation")
        if data is not None:
            memcpy(o.io.buf, <char *>data, n)
        o.io.op, o.io.durable, o.io.fd, o.io.n, o.io.off, o.io.owner = op, durable, file.fd, n, off, o
        o.file, o.tag = <void *>file, <void *>tag
        Py_INCREF(file)
        Py_INCREF(tag)
        with nogil:
            taken = self.os.table.submit(self.os.table.ctx, self.q, &o.io, 1)
        if taken:
            self.in_flight += 1
            return 0
        self._release(o)
        raise Unavailable(f"more than {self.depth} operations in flight", "complete some first")

    cdef int _release(self, operation *o) except -1:
        cdef File file = <File>o.file
        cdef object tag = <object>o.tag
        self.os.table.free_pages(self.os.table.ctx, o.io.buf, o.room_bytes)
        PyMem_Free(o)
        Py_DECREF(file)
        Py_DECREF(tag)
        return file.leave()

    cdef list _complete(self, bint wait):
        cdef cdp_io *ready[16]
        cdef operation *o
        cdef uint32_t n, i
        cdef list results = []
        with nogil:
            n = self.os.table.complete(self.os.table.ctx, self.q, ready, 16, wait)
        for i in range(n):
            o = <operation *>ready[i].owner
            self.in_flight -= 1
            tag, result = <object>o.tag, o.io.result
            if result < 0:
                try:
                    done(o.io.result, "an operation", (<File>o.file).path, o.io.off)
                except Exception as error:
                    result = error
            elif o.io.op == CDP_IO_READ:
                result = PyBytes_FromStringAndSize(<char *>o.io.buf, <Py_ssize_t>o.io.result)
            results.append((tag, result))
            self._release(o)
        return results

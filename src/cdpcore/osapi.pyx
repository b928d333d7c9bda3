# cython: autotestdict=False
"""The OS table as Python sees it: files and directories on cold paths (volume directories, what lies next to a catalog).

The engine calls the C table directly (`Os.table`); the shell uses the methods here, so that both go to the same place:
the real machine (`posix()`) or a simulated one.

Invariants
 1. Every call runs without the GIL and reports failure through cdpcore.errors.check, with the path in the message.
 2. A File is closed once. close() while another thread is inside a call lets that call finish; it closes the handle.
 3. Durable means: data synced, then the name, then its directory.

Threading: Os and File may be used from any thread. Fields change only under the GIL.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EISDIR, ENOENT, ENOTDIR
from libc.stdint cimport int64_t, uint32_t, uint64_t
cimport cython

from cdpcore.errors cimport cdp_fail_os, cdp_status, check

import os as _os

from cdpcore.errors import Busy, Closed, InvalidRequest

DIRECT_ALIGN = CDP_DIRECT_ALIGN
_MAX_TRANSFER_BYTES = 1 << 30


cdef int _done(int64_t rc, const char *where, object path, uint64_t offset=0) except -1:
    """Raise for a negative errno."""
    cdef cdp_status st
    if rc >= 0:
        return 0
    cdp_fail_os(&st, rc, offset, where)
    return check(st.code, &st, path)


cdef bytes _encode(object path):
    """str, bytes or PathLike -> the bytes that the table takes."""
    cdef bytes raw = _os.fsencode(path)
    if not raw or b"\0" in raw:
        raise InvalidRequest(f"{path!r} is not a file name")
    return raw


cdef object _text(object path):
    return _os.fsdecode(path)


# tmp: a name next to path; folder: the directory of both. On failure tmp is gone (unless the OS fails altogether) and
# path is as it was.
cdef int _write_durably(const cdp_os *t, const char *path, const char *tmp, const char *folder, const void *data,
                        uint64_t n, cdp_status *st) noexcept nogil:
    cdef int fd, rc
    cdef int64_t r
    rc = t.unlink(t.ctx, tmp)  # what a crash left behind
    if rc < 0 and rc != -ENOENT:
        return cdp_fail_os(st, rc, 0, "remove old temporary file")
    fd = t.open(t.ctx, tmp, CDP_OPEN_RDWR | CDP_OPEN_CREATE)
    if fd < 0:
        return cdp_fail_os(st, fd, 0, "create temporary file")
    r = t.pwrite(t.ctx, fd, data, n, 0)
    if r < 0:
        cdp_fail_os(st, r, 0, "write")
    else:
        r = t.datasync(t.ctx, fd)
        if r < 0:
            cdp_fail_os(st, r, 0, "sync")
    rc = t.close(t.ctx, fd)
    if r >= 0 and rc < 0:
        r = rc
        cdp_fail_os(st, r, 0, "close")
    if r >= 0:
        r = t.rename(t.ctx, tmp, path)
        if r < 0:
            cdp_fail_os(st, r, 0, "rename")
    if r < 0:
        t.unlink(t.ctx, tmp)
        return st.code
    r = t.sync_dir(t.ctx, folder)
    return 0 if r >= 0 else cdp_fail_os(st, r, 0, "sync directory")


cdef class Os:
    """An operating system: the one table that the engine and the shell call. Use posix() or SimOs.

    Threading: any thread. Lifetime: an engine object that uses the table keeps the Os alive.
    """

    def __cinit__(self):
        self.table = cdp_os_posix()  # never NULL, whatever a subclass does

    def __reduce__(self):
        raise TypeError("an operating system cannot be pickled")

    def open(self, path, *, bint write=False, bint create=False, bint direct=False, bint random=False):
        """Open a file or a block device.

        path: str, bytes or PathLike. write: also for writing. create: make it, failing where it exists. direct: past
        the page cache where the file system can; buffers, offsets and lengths are then multiples of DIRECT_ALIGN.
        random: no read-ahead. Returns a File. Raises NotFound, Unavailable (exists, permission, a directory).
        """
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef uint32_t flags = CDP_OPEN_RDONLY
        cdef int fd
        cdef File f = File.__new__(File)
        f.os = self
        f.path = _text(path)
        f.direct = direct
        if write:
            flags |= CDP_OPEN_RDWR
        if create:
            flags |= CDP_OPEN_CREATE
        if direct:
            flags |= CDP_OPEN_DIRECT
        if random:
            flags |= CDP_OPEN_RANDOM
        with nogil:
            fd = self.table.open(self.table.ctx, p, flags)
        _done(fd, "create" if create else "open", f.path)
        f.fd = fd
        f.dead = False
        return f

    def mkdir(self, path):
        """Make a directory; its parent exists. Durable after sync_dir(parent). Raises Unavailable where it exists."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef int rc
        with nogil:
            rc = self.table.mkdir(self.table.ctx, p)
        _done(rc, "make directory", _text(path))

    def rmdir(self, path):
        """Remove an empty directory."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef int rc
        with nogil:
            rc = self.table.rmdir(self.table.ctx, p)
        _done(rc, "remove directory", _text(path))

    def unlink(self, path):
        """Remove a file's name. Durable after sync_dir of its directory."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef int rc
        with nogil:
            rc = self.table.unlink(self.table.ctx, p)
        _done(rc, "remove", _text(path))

    def rename(self, source, target):
        """Rename, replacing `target` atomically. Durable after sync_dir of both directories."""
        cdef bytes raw_source = _encode(source)
        cdef bytes raw_target = _encode(target)
        cdef const char *a = raw_source
        cdef const char *b = raw_target
        cdef int rc
        with nogil:
            rc = self.table.rename(self.table.ctx, a, b)
        _done(rc, "rename", f"{_text(source)} -> {_text(target)}")

    def sync_dir(self, path):
        """Make the names in this directory durable: what was created, renamed or removed in it."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef int rc
        with nogil:
            rc = self.table.sync_dir(self.table.ctx, p)
        _done(rc, "sync directory", _text(path))

    def list_dir(self, path):
        """The names in a directory, sorted by their bytes, as list[str] (undecodable bytes as surrogates)."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef uint64_t cap = 4096
        cdef int64_t need
        cdef bytes names
        cdef char *buf
        while True:
            names = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>cap)
            buf = PyBytes_AS_STRING(names)
            with nogil:
                need = self.table.list_dir(self.table.ctx, p, buf, cap)
            _done(need, "list directory", _text(path))
            if <uint64_t>need <= cap:
                return [_os.fsdecode(name) for name in names[:need].split(b"\0") if name]
            cap = <uint64_t>need + 4096

    def exists(self, path):
        """Whether the path names anything. Raises Unavailable where that cannot be found out."""
        cdef bytes raw = _encode(path)
        cdef const char *p = raw
        cdef int fd
        with nogil:
            fd = self.table.open(self.table.ctx, p, CDP_OPEN_RDONLY)
            if fd >= 0:
                self.table.close(self.table.ctx, fd)
        if fd == -ENOENT or fd == -ENOTDIR:
            return False
        if fd != -EISDIR:
            _done(fd, "look for", _text(path))
        return True

    def size(self, path):
        """Size of a file or block device in bytes."""
        cdef File f = self.open(path)
        try:
            return f.size()
        finally:
            f.close()

    def read_file(self, path, uint64_t limit_bytes=16 << 20):
        """The whole content of a small file, as bytes. Raises InvalidRequest where it is longer than limit_bytes."""
        cdef File f = self.open(path)
        try:
            n = f.size()
            if n > limit_bytes:
                raise InvalidRequest(f"{f.path}: {n} bytes, more than the {limit_bytes} expected here")
            return f.pread(n, 0)
        finally:
            f.close()

    def write_file(self, path, data):
        """Create or replace a file, durably and atomically: after a crash it has the old content or the new.

        data: bytes-like. Goes through `path`.tmp, which nobody else may use; one writer of a path at a time. When it
        raises, the path has its old content, or (where the last step, syncing the directory, failed) either one.
        """
        cdef bytes raw = _encode(path)
        cdef bytes tmp = raw + b".tmp"
        cdef bytes folder = _os.path.dirname(raw) or b"."
        cdef const char *c_path = raw
        cdef const char *c_tmp = tmp
        cdef const char *c_folder = folder
        cdef Py_buffer view
        cdef cdp_status st
        cdef int rc
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                rc = _write_durably(self.table, c_path, c_tmp, c_folder, view.buf, <uint64_t>view.len, &st)
        finally:
            PyBuffer_Release(&view)
        check(rc, &st, _text(path))

    def now_ns(self):
        """The wall clock: UTC, nanoseconds since 1970."""
        cdef uint64_t ns
        with nogil:
            ns = self.table.now_ns(self.table.ctx)
        return ns


@cython.final
cdef class PosixOs(Os):
    """The machine itself. Get it from posix()."""


_POSIX = PosixOs()


def posix():
    """The real operating system (one object for the process)."""
    return _POSIX


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
            self.os.table.close(self.os.table.ctx, self.fd)

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
            rc = self.os.table.close(self.os.table.ctx, fd)
        return _done(rc, "close", self.path)

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
                rc = self.os.table.size(self.os.table.ctx, self.fd)
            _done(rc, "size", self.path)
        finally:
            self.leave()
        return rc

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
                    bounce = self.os.table.pages(self.os.table.ctx, length_bytes)
                if bounce == NULL:
                    raise MemoryError(f"{length_bytes} bytes for a read")
                try:
                    with nogil:
                        rc = self.os.table.pread(self.os.table.ctx, self.fd, bounce, length_bytes, offset_bytes)
                    _done(rc, "read", self.path, offset_bytes)
                    return PyBytes_FromStringAndSize(<char *>bounce, <Py_ssize_t>rc)
                finally:
                    self.os.table.free_pages(self.os.table.ctx, bounce, length_bytes)
            out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length_bytes)
            bounce = PyBytes_AS_STRING(out)
            with nogil:
                rc = self.os.table.pread(self.os.table.ctx, self.fd, bounce, length_bytes, offset_bytes)
            _done(rc, "read", self.path, offset_bytes)
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
                    rc = self.os.table.pread(self.os.table.ctx, self.fd, view.buf, <uint64_t>view.len, offset_bytes)
                _done(rc, "read", self.path, offset_bytes)
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
                    rc = self.os.table.pwrite(self.os.table.ctx, self.fd, view.buf, <uint64_t>view.len, offset_bytes)
                _done(rc, "write", self.path, offset_bytes)
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
                rc = self.os.table.datasync(self.os.table.ctx, self.fd)
            _done(rc, "sync", self.path)
        finally:
            self.leave()

    def truncate(self, uint64_t size_bytes):
        """Set the size; what is added reads as zeros."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.os.table.truncate(self.os.table.ctx, self.fd, size_bytes)
            _done(rc, "truncate", self.path, size_bytes)
        finally:
            self.leave()

    def allocate(self, uint64_t offset_bytes, uint64_t length_bytes):
        """Reserve space where the file system can and extend the size to the range's end; data is kept."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.os.table.allocate(self.os.table.ctx, self.fd, offset_bytes, length_bytes)
            _done(rc, "allocate", self.path, offset_bytes)
        finally:
            self.leave()

    def punch(self, uint64_t offset_bytes, uint64_t length_bytes):
        """Free the range's space; it reads as zeros, the size stays. Raises Unavailable where that is not to be had."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.os.table.punch(self.os.table.ctx, self.fd, offset_bytes, length_bytes)
            _done(rc, "punch", self.path, offset_bytes)
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
                rc = self.os.table.next_data(self.os.table.ctx, self.fd, offset_bytes, &start, &end)
            _done(rc, "look for data", self.path, offset_bytes)
        finally:
            self.leave()
        return (start, end) if rc else None

    def lock(self):
        """Take the exclusive lock of the file, kept until close. Raises Busy where another handle has it."""
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = self.os.table.lock(self.os.table.ctx, self.fd)
            if rc == -EAGAIN:
                raise Busy(f"{self.path}: locked by another user", "close the other one first")
            _done(rc, "lock", self.path)
        finally:
            self.leave()

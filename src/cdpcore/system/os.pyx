# cython: autotestdict=False
"""The OS table as Python sees it: files and directories on cold paths, and the controls of a simulated machine.

The engine calls the C table directly (`Os.table`); the shell uses the methods here, so that both go to the same place:
the real machine (`posix()`) or a simulated one.

Invariants
 1. Every call runs without the GIL and reports failure through cdpcore.base.errors.check, with the path in the message.
 2. Durable means: data synced, then the name, then its directory.

Threading: an Os may be used from any thread; its table is constant.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EISDIR, ENOENT, ENOTDIR
from libc.stdint cimport int64_t, uint32_t, uint64_t
cimport cython

from cdpcore.base.errors cimport check
from cdpcore.base.status cimport cdp_fail_os, cdp_status
from cdpcore.system.file cimport done, file_of_handle
from cdpcore.system.os_sim cimport (CDP_SIM_DROP, CDP_SIM_KEEP, CDP_SIM_KILLED, CDP_SIM_N_CALLS, CDP_SIM_SEEDED,
                                    cdp_sim_calls, cdp_sim_clear_faults, cdp_sim_count, cdp_sim_cut_at, cdp_sim_fail,
                                    cdp_sim_flip, cdp_sim_free, cdp_sim_lose_write, cdp_sim_misdirect_write,
                                    cdp_sim_misuse, cdp_sim_new, cdp_sim_open_handles, cdp_sim_open_maps,
                                    cdp_sim_open_queues, cdp_sim_os, cdp_sim_power_on, cdp_sim_powered,
                                    cdp_sim_set_clock, cdp_sim_set_space, cdp_sim_set_sparse, cdp_sim_space_used)
from cdpcore.system.os_table cimport (CDP_DIRECT_ALIGN, CDP_OPEN_CREATE, CDP_OPEN_DIRECT, CDP_OPEN_RANDOM,
                                      CDP_OPEN_RDONLY, CDP_OPEN_RDWR, cdp_os_posix, cdp_os_posix_threads)

import os as _os

from cdpcore.base.errors import InvalidRequest
from cdpcore.system.file import File  # noqa: F401

DIRECT_ALIGN = CDP_DIRECT_ALIGN


cdef bytes _encode(object path):
    """str, bytes or PathLike -> the bytes that the table takes."""
    cdef bytes raw = _os.fsencode(path)
    if not raw or b"\0" in raw:
        raise InvalidRequest(f"{path!r} is not a file name")
    return raw


cdef object _text(object path):
    return _os.fsdecode(path)


ctypedef int (*path_call)(void *ctx, const char *path) noexcept nogil


cdef int _on_path(const cdp_os *t, path_call call, object path, const char *where) except -1:
    cdef bytes raw = _encode(path)
    cdef const char *p = raw
    cdef int rc
    with nogil:
        rc = call(t.ctx, p)
    return done(rc, where, _text(path))


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
        cdef object text = _text(path)
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
        done(fd, "create" if create else "open", text)
        return file_of_handle(self, self.table, fd, text, direct)

    def mkdir(self, path):
        """Make a directory; its parent exists. Durable after sync_dir(parent). Raises Unavailable where it exists."""
        _on_path(self.table, self.table.mkdir, path, "make directory")

    def rmdir(self, path):
        """Remove an empty directory."""
        _on_path(self.table, self.table.rmdir, path, "remove directory")

    def unlink(self, path):
        """Remove a file's name. Durable after sync_dir of its directory."""
        _on_path(self.table, self.table.unlink, path, "remove")

    def rename(self, source, target):
        """Rename, replacing `target` atomically. Durable after sync_dir of both directories."""
        cdef bytes raw_source = _encode(source)
        cdef bytes raw_target = _encode(target)
        cdef const char *a = raw_source
        cdef const char *b = raw_target
        cdef int rc
        with nogil:
            rc = self.table.rename(self.table.ctx, a, b)
        done(rc, "rename", f"{_text(source)} -> {_text(target)}")

    def sync_dir(self, path):
        """Make the names in this directory durable: what was created, renamed or removed in it."""
        _on_path(self.table, self.table.sync_dir, path, "sync directory")

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
            done(need, "list directory", _text(path))
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
            done(fd, "look for", _text(path))
        return True

    def size(self, path):
        """Size of a file or block device in bytes."""
        f = self.open(path)
        try:
            return f.size()
        finally:
            f.close()

    def read_file(self, path, uint64_t limit_bytes=16 << 20):
        """The whole content of a small file, as bytes. Raises InvalidRequest where it is longer than limit_bytes."""
        f = self.open(path)
        try:
            n = f.size()
            if n > limit_bytes:
                raise InvalidRequest(f"{f.path}: {n} bytes, more than the {limit_bytes} expected here")
            return f.pread(n, 0)
        finally:
            f.close()

    def write_file(self, path, data):
        """Create or replace a file, durably and atomically: after a crash it has the old content or the new.

        data: bytes-like. Goes through `path`.tmp, which must not be used otherwise; one writer of a path at a time.
        When it raises, the path has its old content, or (where the last step, syncing the directory, failed) either
        one.
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

    def __cinit__(self, bint threads=False):
        if threads:
            self.table = cdp_os_posix_threads()


_POSIX = PosixOs()
_POSIX_THREADS = PosixOs(threads=True)


def posix(*, bint threads=False):
    """The real operating system (one object for the process). threads: its queues are threads, also where there is
    io_uring."""
    return _POSIX_THREADS if threads else _POSIX


# The kinds of calls, in the order of enum cdp_sim_call.
_CALLS = (
    "any", "open", "create", "pread", "pwrite", "datasync", "allocate", "truncate", "punch", "size", "next_data",
    "lock", "map", "rename", "unlink", "mkdir", "rmdir", "sync_dir", "list_dir", "random", "pages",
)
_CALL_NUMBERS = {name: number for number, name in enumerate(_CALLS)}
_MODES = {"seeded": CDP_SIM_SEEDED, "drop": CDP_SIM_DROP, "keep": CDP_SIM_KEEP, "killed": CDP_SIM_KILLED}
if len(_CALLS) != CDP_SIM_N_CALLS:
    raise ImportError("the kinds of calls differ from os_sim.h")


cdef uint32_t _call_number(object call) except? 0xffffffff:
    number = _CALL_NUMBERS.get(call)
    if number is None:
        raise InvalidRequest(f"{call!r} is not a call of the OS table", f"one of {', '.join(_CALLS)}")
    return number


cdef bytes _part(object part):
    return b"" if part is None else _os.fsencode(part)


@cython.final
cdef class SimOs(Os):
    """A simulated machine: an in-memory file system with the crashes, faults and clock that a test asks for.

    seed: decides what survives a power cut, where failing calls leave off, and what random() gives; the same seed and
    the same calls give the same results. What each control means is in os_sim.h. Threading: any thread.
    """

    def __cinit__(self, uint64_t seed=0):
        self.sim = cdp_sim_new(seed)
        if self.sim == NULL:
            raise MemoryError("simulated machine")
        self.table = cdp_sim_os(self.sim)

    def __dealloc__(self):
        cdp_sim_free(self.sim)

    @property
    def calls(self):
        """Calls so far that change or sync something: what cut_at counts."""
        return cdp_sim_calls(self.sim)

    def count(self, call="any"):
        """Calls so far of one kind ("pwrite", "datasync", ...; "any": of every kind that is I/O)."""
        return cdp_sim_count(self.sim, _call_number(call))

    def cut_at(self, n):
        """The n-th further call that changes or syncs something loses power (0: now; None: never)."""
        cdp_sim_cut_at(self.sim, (<uint64_t>-1) if n is None else n)

    @property
    def powered(self):
        """False from a power cut to power_on."""
        return bool(cdp_sim_powered(self.sim))

    def power_on(self, mode="seeded"):
        """Decide what survived ("seeded", "drop": nothing un-synced, "keep": all of it; "killed": it was the process
        that ended, not the machine: all of it, still un-synced). Handles become invalid."""
        cdef uint32_t number
        if mode not in _MODES:
            raise InvalidRequest(f"{mode!r} is not a mode", f"one of {', '.join(_MODES)}")
        number = _MODES[mode]
        with nogil:
            cdp_sim_power_on(self.sim, number)

    def fail(self, call, *, part=None, uint64_t n=1, uint64_t times=1, int error=5):
        """The n-th further such call (and times - 1 more) whose path contains `part` fails with errno `error`."""
        cdef bytes raw = _part(part)
        done(cdp_sim_fail(self.sim, _call_number(call), raw, n, times, error), "arm a fault", part)

    def lose_write(self, *, part=None, uint64_t n=1):
        """The n-th further pwrite (to a path containing `part`) reports success and changes only the size."""
        cdef bytes raw = _part(part)
        done(cdp_sim_lose_write(self.sim, raw, n), "arm a fault", part)

    def misdirect_write(self, int64_t delta_bytes, *, part=None, uint64_t n=1):
        """The n-th further pwrite (to a path containing `part`) lands delta_bytes further on, and reports success."""
        cdef bytes raw = _part(part)
        done(cdp_sim_misdirect_write(self.sim, raw, n, delta_bytes), "arm a fault", part)

    def clear_faults(self):
        """Disarm what fail, lose_write and misdirect_write armed and has not happened."""
        cdp_sim_clear_faults(self.sim)

    def flip(self, path, uint64_t byte, uint32_t bit=0):
        """Flip a bit (0..7) of a byte of a file on the medium; unseen where that sector has un-synced changes."""
        cdef bytes raw = _encode(path)
        done(cdp_sim_flip(self.sim, raw, byte, bit), "flip a bit", _text(path), byte)

    def set_space(self, uint64_t capacity_bytes):
        """Set the disk's capacity; writing beyond it raises OutOfSpace. At most 1 TiB; 8 GiB from the start."""
        done(cdp_sim_set_space(self.sim, capacity_bytes), "set the capacity", None)

    @property
    def space_used_bytes(self):
        """4 KiB blocks written or reserved now, in bytes."""
        return cdp_sim_space_used(self.sim)

    def set_sparse(self, bint on):
        """False: a file system without holes (punch is refused, next_data gives everything)."""
        cdp_sim_set_sparse(self.sim, on)

    def set_clock(self, uint64_t ns, int64_t step_ns=1000):
        """The next now_ns() gives `ns`, each further one step_ns more (or less, not below 0)."""
        cdp_sim_set_clock(self.sim, ns, step_ns)

    @property
    def open_handles(self):
        """Handles that were opened and not closed."""
        return cdp_sim_open_handles(self.sim)

    @property
    def open_maps(self):
        """Maps that were not unmapped."""
        return cdp_sim_open_maps(self.sim)

    @property
    def open_queues(self):
        """Queues that were not freed."""
        return cdp_sim_open_queues(self.sim)

    @property
    def misuse(self):
        """Refused wrong uses: closed handles, unaligned direct transfers, bad maps. Correct code leaves it at 0."""
        return cdp_sim_misuse(self.sim)

"""A channel between a gateway and a time store daemon, as memory: made by the gateway, mapped by the daemon that serves
it.

The two ends that work on it are cdpcore.channel.gateway (the gateway's) and cdpcore.channel.executor (the daemon's);
this is what they share,
and what a failover does to it. Threading: constant but for the words of channel/channel.h, which say who writes them.
"""
cimport cython
from libc.errno cimport errno
from posix.fcntl cimport F_DUPFD_CLOEXEC, fcntl
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close
from cdpcore.system.os_table cimport cdp_os_shared_memory

import os as _os

from cdpcore.base.errors import InvalidRequest as _InvalidRequest
from cdpcore.base.errors import OutOfSpace as _OutOfSpace


SLOTS = CDP_CHANNEL_SLOTS
"""Packets that a channel holds: under way, or kept until the daemon has written them."""
BYTES = CDP_CHANNEL_BYTES
"""Address space of a channel; memory is used as far as the client's requests need it."""


def shared_memory(uint64_t n) -> int:
    """A file descriptor, the caller's, on n zeroed bytes of memory that processes can share by mapping it. Raises
    OutOfSpace."""
    cdef int fd = cdp_os_shared_memory(n)
    if fd < 0:
        raise _OutOfSpace(f"no shared memory of {n} bytes: {_os.strerror(-fd)}", "use less")
    return fd


def _not_a_channel():
    return _InvalidRequest("what was passed is not a channel's memory", "gateway and daemon must be of one version")


@cython.final
cdef class Channel:
    """Channel(): a new one. Channel(fd): the one whose memory is behind `fd`, which stays the caller's.

    Raises OutOfSpace for want of memory, InvalidRequest where `fd` is no channel of this version.
    """

    def __cinit__(self, fd: int | None = None):
        cdef void *p
        self.memory_fd = cdp_os_shared_memory(CDP_CHANNEL_BYTES) if fd is None else fcntl(<int>fd, F_DUPFD_CLOEXEC, 3)
        if self.memory_fd < 0:
            raise _OutOfSpace(f"no shared memory of {BYTES} bytes for a connection: {_os.strerror(-self.memory_fd)}",
                              "lower max_connections")
        if fd is not None and _os.fstat(fd).st_size < CDP_CHANNEL_BYTES:
            raise _not_a_channel()
        p = mmap(NULL, CDP_CHANNEL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, self.memory_fd, 0)
        if p == MAP_FAILED:
            raise _OutOfSpace(f"no address space for a connection: {_os.strerror(errno)}", "lower max_connections")
        self.c = <cdp_channel *>p
        if fd is None:
            cdp_channel_init(self.c)
        elif not cdp_channel_is_one(self.c):
            raise _not_a_channel()

    def __dealloc__(self):
        if self.c != NULL:
            munmap(self.c, CDP_CHANNEL_BYTES)
        if self.memory_fd > 0:
            close(self.memory_fd)

    def __reduce__(self):
        raise TypeError("a channel cannot be pickled")

    def fileno(self) -> int:
        """The memory's file descriptor, to be passed on; this object's."""
        return self.memory_fd

    @property
    def epoch(self) -> int:
        """Of the ownership under which a daemon may touch it; 0: nobody may."""
        return cdp_channel_get32(&self.c.epoch)

    def disown(self):
        """Gateway: from now on no daemon may touch it."""
        cdp_channel_set32(&self.c.epoch, 0)

    def own(self, uint32_t epoch):
        """Gateway, when the daemon before is dead: hand it to the owner of `epoch`. Everything that was sent before is
        sent again with REPLAY, and nothing is released before the new owner has said replayed()."""
        cdef uint64_t n, end
        cdp_channel_set32(&self.c.replaying, 1)
        n = cdp_channel_get(&self.c.tail)
        end = cdp_channel_get(&self.c.head)
        while n < end:
            cdp_channel_mark(self.c, n)
            n += 1
        cdp_channel_set32(&self.c.epoch, epoch)

    def replayed(self):
        """Daemon: what was lost is in the log again."""
        cdp_channel_set32(&self.c.replaying, 0)

    def positions(self) -> dict[str, int]:
        """head, done, answered, tail, written_seq: a look, not of one moment."""
        return {"head": cdp_channel_get(&self.c.head), "done": cdp_channel_get(&self.c.done),
                "answered": cdp_channel_get(&self.c.answered), "tail": cdp_channel_get(&self.c.tail),
                "written_seq": cdp_channel_get(&self.c.written_seq)}

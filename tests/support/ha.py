"""A gateway's connection and a daemon's executor around one channel, in this process: everything but the processes."""
import shutil
import socket
import threading
from contextlib import contextmanager

from support.nbd import DEADLINE_S, MIB, Wire

import cdp
from cdpcore.channel.channel import Channel
from cdpcore.channel.executor import Executor
from cdpcore.channel.gateway import GateConnection

SETTINGS = cdp.Settings(commit_interval_ms=0, segment_bytes=32 * MIB, pool_bytes=16 * MIB)
"""The log is written only when a frame is full or somebody asks."""


class Gate:
    """A client's wire, the gateway's end, and whoever is attached to it."""

    def __init__(self, size_bytes, structured=True, read_only=False, context_id=1, contexts=(),
                 memory=None):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        self.wire = Wire(ours, structured)
        self.channel = Channel()
        self.connection = GateConnection(theirs, self.channel, -1, size_bytes=size_bytes, read_only=read_only,
                                         structured=structured, context_id=context_id, contexts=contexts, memory=memory)
        self.ends = []
        self.epoch = 0
        self._theirs = theirs
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        self.ends.append(self.connection.serve())
        self._theirs.close()

    def end(self):
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self.ends[0]

    def executor(self, target):
        """A new owner's executor; the one before can do nothing more."""
        self.epoch += 1
        self.channel.own(self.epoch)
        ours, theirs = socket.socketpair()
        self.connection.attach(ours.detach())
        return Executor(Channel(self.channel.fileno()), theirs.detach(), target, self.epoch)

    @contextmanager
    def attached(self, target, last_seq=None, redo=None, select=None):
        """Serve with this target; where it takes over, `last_seq` is what its log ends with. select: what
        Executor.select() is given."""
        executor = self.executor(target)
        if last_seq is not None:
            for _, number in sorted(executor.lost(last_seq))[:redo]:
                executor.redo(number)
        left = []
        if select:
            executor.select(*select)
        if redo is None:
            self.channel.replayed()
            thread = threading.Thread(target=lambda: left.append(executor.run()), daemon=True)
            thread.start()
        try:
            yield left
        finally:
            executor.stop()
            if redo is None:
                thread.join(DEADLINE_S)
                assert not thread.is_alive()


@contextmanager
def gate(size_bytes, **options):
    made = Gate(size_bytes, **options)
    try:
        with made.wire.sock:
            yield made
    finally:
        made.connection.stop(now=True)
        made.end()


def remains(volume, path):
    """What a kill -9 of the volume's process would leave: its files as they are now, at `path`."""
    shutil.copytree(volume.path, path)
    return path

"""A file or block device as a disk, by the OS table: one thread, one request after the other."""
from __future__ import annotations

from functools import partial

from cdp.platform.callers import Caller
from cdp.platform.routers.base import Router, log
from cdp.platform.structures import IoRequest, Op
from cdpcore.base.errors import CdpError, Unavailable
from cdpcore.system.os import posix

ZEROS = memoryview(bytes(1 << 20))


class FileRouter(Router):
    """FileRouter(path): the file is there already, and its size is the disk's."""

    def __init__(self, path: str, read_only: bool = False):
        self._file = posix().open(path, write=not read_only)
        self.size_bytes, self.read_only = self._file.size(), read_only
        super().__init__(path)
        self._worker = Caller(f"file {path}", log.error)

    def _start(self, request: IoRequest) -> None:
        self._worker.post(partial(self._carry_out, request))

    def _carry_out(self, request: IoRequest) -> None:
        error: CdpError | None = None
        try:
            self._work(request)
            if request.fua or request.op is Op.FLUSH:
                self._file.datasync()
        except CdpError as failure:
            error = failure
        self._finish(request, error)

    def _work(self, request: IoRequest) -> None:
        at, end = request.offset, request.offset + request.length
        if request.op is Op.READ:
            assert request.buffer is not None
            if self._file.pread_into(request.buffer, at) != request.length:
                raise Unavailable(f"{self.name}: the file has become shorter", "restore its size, then open it again")
        elif request.op is Op.WRITE:
            assert request.buffer is not None
            self._file.pwrite(request.buffer, at)
        elif request.op is Op.TRIM and self._punched(at, request.length):
            return
        elif request.op in (Op.ZERO, Op.TRIM):
            while at < end:
                at += self._file.pwrite(ZEROS[:end - at], at)

    def _punched(self, offset: int, length: int) -> bool:
        try:
            self._file.punch(offset, length)
            return True
        except CdpError:        # the file system cannot: zeros will do
            return False

    def _shutdown(self) -> None:
        self._worker.close()
        self._file.close()

"""What the NBD tests share: a target made of Python callbacks, clients made of raw bytes, a resolver.

The target (Spy) is slow and that is its point: it records every call, fails or blocks on demand, and lies when told to.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cdpcore.base.errors import NotFound
from cdpcore.nbd import connection as core
from cdpcore.nbd.memory import ConnectionMemory

# enum cdp_code
WOULD_WAIT = -1
INVALID, NOTFOUND, NOSPACE, CORRUPT, UNAVAILABLE, CLOSED, REFUSED = range(1, 8)
# flags and extents of the target
T_FUA, T_HOLE = 1, 2
DATA, ZERO, HOLE = 0, 1, 2
# commands, command flags, errors
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
C_NONE, C_DATA, C_HOLE, C_STATUS, C_ERROR = 0, 1, 2, 5, 0x8001
MIB = 1 << 20
DEADLINE_S = 20.0  # of anything that must happen; reaching it is a failure


class _Status(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_int32),
        ("sys_errno", ctypes.c_int32),
        ("offset", ctypes.c_uint64),
        ("expected", ctypes.c_uint64),
        ("actual", ctypes.c_uint64),
        ("where", ctypes.c_char_p),
    ]


class _Extent(ctypes.Structure):
    _fields_ = [
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


_P, _U64, _U32, _ST = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(_Status)
_PREAD = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _U64, _U64, _ST)
_PWRITE = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _U64, _U64, _U32, _ST)
_ZERO = ctypes.CFUNCTYPE(ctypes.c_int, _P, _U64, _U64, _U32, _ST)
_FLUSH = ctypes.CFUNCTYPE(ctypes.c_int, _P, _ST)
_PWRITE_SEQ = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _U64, _U64, _U32, ctypes.POINTER(_U64), _ST)
_ZERO_SEQ = ctypes.CFUNCTYPE(ctypes.c_int, _P, _U64, _U64, _U32, ctypes.POINTER(_U64), _ST)
_WRITTEN_SEQ = ctypes.CFUNCTYPE(_U64, _P)
_WRITE_OUT = ctypes.CFUNCTYPE(ctypes.c_int, _P, _U64, _ST)
_MAP = ctypes.CFUNCTYPE(ctypes.c_int, _P, _U64, _U64, ctypes.POINTER(_Extent), _U32, ctypes.POINTER(_U32), _ST)


class _Table(ctypes.Structure):
    _fields_ = [
        ("ctx", _P),
        ("size_bytes", _U64),
        ("read_only", _U32),
        ("tells_seq", _U32),
        ("pread", _PREAD),
        ("pwrite", _PWRITE),
        ("zero", _ZERO),
        ("flush", _FLUSH),
        ("map", _MAP),
        ("pwrite_seq", _PWRITE_SEQ),    # these four are not called by a connection, but by an executor
        ("zero_seq", _ZERO_SEQ),
        ("written_seq", _WRITTEN_SEQ),
        ("write_out", _WRITE_OUT),
        ("expect", _P),     # may be NULL
        ("pread_now", _PREAD),
        ("stages", _P),
    ]


_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype = ctypes.py_object
_capsule_new.argtypes = [_P, ctypes.c_char_p, _P]
_NAME = b"cdpcore.target"


class Spy:
    """A target over a bytearray. `size_bytes` may be larger than what is backed: nothing past `backed` may be touched.

    calls  (name, offset, length, flags) in order
    fail   name -> (code, errno, text), while it is there
    hook   called with (name, offset, length) before the work; may block
    waits  (offset, length) -> whether it has to come from a device; None: a target that is called on the spot only
    """

    def __init__(self, size_bytes: int = MIB, read_only: bool = False, backed: int | None = None,
                 waits: Callable[[int, int], bool] | None = None):
        self.waits = waits or (lambda offset, length: False)
        self.size_bytes = size_bytes
        self.data = bytearray(size_bytes if backed is None else backed)
        self.seq = 0        # of the last change by who wants it told
        self.extents: Callable[[int, int], list[tuple[int, int, int]]] | None = None
        self.calls: list[tuple[str, int, int, int]] = []
        self.fail: dict[str, tuple[int, int, bytes]] = {}
        self.hook: Callable[[str, int, int], None] = lambda name, offset, length: None
        self._table = _Table(
            None,
            size_bytes,
            read_only,
            waits is not None,
            _PREAD(self._pread),
            _PWRITE(self._pwrite),
            _ZERO(self._zero),
            _FLUSH(self._flush),
            _MAP(self._map),
            _PWRITE_SEQ(self._pwrite_seq),
            _ZERO_SEQ(self._zero_seq),
            _WRITTEN_SEQ(lambda _: self.seq),
            _WRITE_OUT(lambda _, seq, st: 0),
            None,
            _PREAD(self._pread_now) if waits else _PREAD(),
        )
        self.capsule = _capsule_new(ctypes.addressof(self._table), _NAME, None)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def _enter(self, name: str, offset: int, length: int, flags: int, st: Any) -> int:
        self.hook(name, offset, length)
        self.calls.append((name, offset, length, flags))
        code, errno, text = self.fail.get(name, (0, 0, b""))
        if code:
            st[0].code, st[0].sys_errno, st[0].offset, st[0].where = code, errno, offset, text
        return code

    def _pread(self, _: int, buf: int, offset: int, length: int, st: Any) -> int:
        rc = self._enter("pread", offset, length, 0, st)
        if not rc:
            ctypes.memmove(buf, bytes(self.data[offset : offset + length]).ljust(length, b"\0"), length)
        return rc

    def _pread_now(self, _: int, buf: int, offset: int, length: int, st: Any) -> int:
        if self.waits(offset, length):
            return WOULD_WAIT
        rc = self._enter("pread_now", offset, length, 0, st)
        if not rc:
            ctypes.memmove(buf, bytes(self.data[offset : offset + length]).ljust(length, b"\0"), length)
        return rc

    def _pwrite(self, _: int, buf: int, offset: int, length: int, flags: int, st: Any) -> int:
        rc = self._enter("pwrite", offset, length, flags, st)
        if not rc:
            self.data[offset : offset + length] = ctypes.string_at(buf, length)
        return rc

    def _zero(self, _: int, offset: int, length: int, flags: int, st: Any) -> int:
        rc = self._enter("zero", offset, length, flags, st)
        if not rc and offset < len(self.data):
            self.data[offset : offset + length] = bytes(min(length, len(self.data) - offset))
        return rc

    def _pwrite_seq(self, _: int, buf: int, offset: int, length: int, flags: int, seq: Any, st: Any) -> int:
        rc = self._pwrite(_, buf, offset, length, flags, st)
        self.seq += not rc
        seq[0] = 0 if rc else self.seq
        return rc

    def _zero_seq(self, _: int, offset: int, length: int, flags: int, seq: Any, st: Any) -> int:
        rc = self._zero(_, offset, length, flags, st)
        self.seq += not rc
        seq[0] = 0 if rc else self.seq
        return rc

    def _flush(self, _: int, st: Any) -> int:
        return self._enter("flush", 0, 0, 0, st)

    def _map(self, _: int, offset: int, length: int, out: Any, cap: int, n: Any, st: Any) -> int:
        rc = self._enter("map", offset, length, cap, st)
        if not rc:
            found = self.extents(offset, length) if self.extents else [(offset, length, DATA)]
            n[0] = min(cap, len(found))
            for i, extent in enumerate(found[:cap]):
                out[i].offset, out[i].length, out[i].kind = extent
        return rc


def request(
    kind: int, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = 7, payload: bytes = b""
) -> bytes:
    """The bytes of a request."""
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length) + payload


def write(offset: int, data: bytes, *, flags: int = 0, cookie: int = 7) -> bytes:
    return request(WRITE, offset, len(data), flags=flags, cookie=cookie, payload=data)


@dataclass
class Reply:
    """All chunks of one reply, or the simple reply; `data` is what a READ gives, holes filled in."""

    cookie: int
    error: int = 0
    message: str = ""
    chunks: list[tuple[int, int, int]] = field(default_factory=list)  # type, offset, length
    data: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)  # length, state
    context_id: int | None = None
    by_context: dict[int, list[tuple[int, int]]] = field(default_factory=dict)     # as extents, in order


class Wire:
    """A client in the transmission phase, over raw bytes."""

    def __init__(self, sock: socket.socket, structured: bool):
        self.sock = sock
        self.structured = structured
        sock.settimeout(DEADLINE_S)

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def recv_exact(self, n: int) -> bytes:
        data, have = bytearray(n), 0     # in one piece: what grows leaves holes in the heap, which tests of memory see
        with memoryview(data) as view:
            while have < n:
                got = self.sock.recv_into(view[have:])
                if not got:
                    raise EOFError(f"{have} of {n} bytes, then the end")
                have += got
        return bytes(data)

    def reply(self, read_bytes: int = 0, offset: int = 0, reads: dict[int, tuple[int, int]] | None = None) -> Reply:
        """The next reply. `read_bytes`, `offset`: of the READ that it answers; or, by cookie, of those that it may
        answer in `reads`."""
        magic = int.from_bytes(self.recv_exact(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.recv_exact(12))
            read_bytes = (reads or {}).get(cookie, (read_bytes, offset))[0]
            assert not (self.structured and read_bytes), "a simple reply to READ after structured replies were agreed"
            return Reply(cookie, error, data=self.recv_exact(read_bytes) if not error else b"")
        reply, parts, done = Reply(-1), dict[int, bytes](), False
        while True:
            assert magic == 0x668E33EF and self.structured
            chunk_flags, kind, cookie, length = struct.unpack(">HHQI", self.recv_exact(16))
            assert reply.cookie in (-1, cookie) and chunk_flags in (0, 1)
            reply.cookie, done = cookie, bool(chunk_flags)
            body = self.recv_exact(length)
            self._chunk(reply, kind, body, parts)
            if done:
                break
            magic = int.from_bytes(self.recv_exact(4))
        read_bytes, at = (reads or {}).get(reply.cookie, (read_bytes, offset))
        end = at + read_bytes
        for start in sorted(parts):
            assert start == at, f"chunk at {start}, expected {at}"
            at += len(parts[start])
        assert reply.error or at == end, f"data ends at {at}, not {end}"
        reply.data = b"".join(parts[start] for start in sorted(parts))
        return reply

    @staticmethod
    def _chunk(reply: Reply, kind: int, body: bytes, parts: dict[int, bytes]) -> None:
        if kind == C_NONE:
            assert not body
            reply.chunks.append((kind, 0, 0))
        elif kind == C_DATA:
            start = int.from_bytes(body[:8])
            assert len(body) > 8
            parts[start] = body[8:]
            reply.chunks.append((kind, start, len(body) - 8))
        elif kind == C_HOLE:
            start, size = struct.unpack(">QI", body)
            assert size
            parts[start] = bytes(size)
            reply.chunks.append((kind, start, size))
        elif kind == C_STATUS:
            reply.context_id = int.from_bytes(body[:4])
            reply.extents = list(struct.iter_unpack(">II", body[4:]))
            assert reply.extents and all(length for length, _ in reply.extents)
            assert reply.context_id not in reply.by_context
            reply.by_context[reply.context_id] = reply.extents
        else:
            assert kind == C_ERROR
            reply.error, n = struct.unpack(">IH", body[:6])
            reply.message = body[6:].decode()
            assert n == len(body) - 6 and reply.error

    def ask(self, data: bytes, read_bytes: int = 0) -> Reply:
        """Send one request and take its reply."""
        self.send(data)
        return self.reply(read_bytes, int.from_bytes(data[16:24]))

    def ended(self) -> bool:
        """The server closed the connection and sent nothing more."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@dataclass
class Served:
    """A connection being served over a socket pair, without a server around it."""

    wire: Wire
    connection: core.Connection
    thread: threading.Thread
    ends: list[core.End]

    def end(self) -> core.End:
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        return self.ends[0]


@contextmanager
def served(
    target: Any, *, structured: bool = True, read_only: bool = False, context_id: int | None = 1,
    fast_zero: bool = True, memory: ConnectionMemory | None = None
) -> Iterator[Served]:
    """Serve a target to a Wire."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    connection = core.Connection(
        theirs, target.capsule, read_only=read_only, structured=structured, context_id=context_id,
        fast_zero=fast_zero, memory=memory
    )
    ends: list[core.End] = []

    def run() -> None:
        ends.append(connection.serve())
        theirs.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with ours:
        yield Served(Wire(ours, structured), connection, thread, ends)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.005)


class FakeExport:
    """An export over any target with capsule and size_bytes; counts its closing."""

    def __init__(self, target: Any, read_only: bool = False, description: str = "for tests", **more: Any):
        self.capsule = target.capsule
        self.size_bytes = target.size_bytes
        self.read_only = read_only
        self.description = description
        self.closed = 0
        for key, value in more.items():
            setattr(self, key, value)

    def close(self) -> None:
        self.closed += 1


class Shelf:
    """A resolver over a dict: name -> callable that gives an export. Keeps what it opened."""

    def __init__(self, **exports: Callable[[], FakeExport]):
        self.exports: dict[str, Callable[[], FakeExport]] = dict(exports)
        self.opened: list[FakeExport] = []
        self.asked: list[str] = []

    def list(self) -> list[tuple[str, str]]:
        return [(name, f"about {name}") for name in self.exports]

    def open(self, name: str) -> FakeExport:
        self.asked.append(name)
        if name not in self.exports:
            raise NotFound(f"no export {name!r}", "list them")
        export = self.exports[name]()
        self.opened.append(export)
        return export


# The handshake, raw.
EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = range(1, 12)
ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
(
    ERR_UNSUP,
    ERR_POLICY,
    ERR_INVALID,
    ERR_PLATFORM,
    ERR_TLS_REQD,
    ERR_UNKNOWN,
    ERR_SHUTDOWN,
    ERR_BLOCK_SIZE,
    ERR_TOO_BIG,
) = range(0x80000001, 0x8000000A)
GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def option(number: int, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of an option."""
    return struct.pack(">QII", 0x49484156454F5054, number, len(data) if length is None else length) + data


def name_and_infos(name: str | bytes, *infos: int) -> bytes:
    """The data of INFO and GO."""
    raw = name if isinstance(name, bytes) else name.encode()
    return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta(name: str, *queries: str) -> bytes:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    parts = [struct.pack(">I", len(name.encode())) + name.encode(), struct.pack(">I", len(queries))]
    return b"".join(parts + [struct.pack(">I", len(q.encode())) + q.encode() for q in queries])


class Talk:
    """A client in the handshake, over raw bytes."""

    def __init__(self, sock: socket.socket, flags: int | None = 3):
        self.sock = sock
        sock.settimeout(DEADLINE_S)
        if flags is not None:
            assert self.recv_exact(18) == GREETING
            sock.sendall(struct.pack(">I", flags))

    def recv_exact(self, n: int) -> bytes:
        return Wire(self.sock, False).recv_exact(n)

    def ask(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; its replies up to the final one."""
        self.sock.sendall(option(number, data))
        return self.replies(number)

    def replies(self, number: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while True:
            magic, echoed, kind, length = struct.unpack(">QIII", self.recv_exact(20))
            assert magic == 0x3E889045565A9 and echoed == number
            found.append((kind, self.recv_exact(length)))
            if kind == ACK or kind & 0x80000000:
                return found

    def refusal(self, number: int, data: bytes = b"") -> tuple[int, str]:
        """An option that must be refused: error and text, with nothing before it."""
        ((kind, text),) = self.ask(number, data)
        assert kind & 0x80000000
        return kind, text.decode()

    def go(self, name: str = "", structured: bool = True) -> Wire:
        """Into the transmission phase."""
        if structured:
            assert self.ask(STRUCTURED) == [(ACK, b"")]
        replies = self.ask(GO, name_and_infos(name))
        assert replies[-1][0] == ACK, replies
        return Wire(self.sock, structured)

    def ended(self) -> bool:
        return Wire(self.sock, False).ended()

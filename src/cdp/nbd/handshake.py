"""The handshake of the NBD protocol (fixed newstyle), server side: from the greeting to an export and what was agreed.

Works on anything with `recv_exact(n) -> bytes` and `sendall(bytes)`; time-outs and TLS belong to it. Section names are
those of doc/proto.md of the NetworkBlockDevice/nbd project.

Invariants
 1. Exactly the bytes of an option are taken off the stream, never one more: TLS and the transmission phase start on a
    clean boundary, and nothing that was sent in the clear is read after STARTTLS.
 2. Bounds: MAX_OPTION_BYTES of one option are kept, up to MAX_SKIP_BYTES are skipped, MAX_OPTIONS options are answered.
 3. At most one export is open at a time, and it is closed unless it is handed out in Agreed.
Threading: one handshake belongs to one thread.
"""
from __future__ import annotations

import enum
import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from cdp.nbd.exports import Export, Resolver, close_export
from cdp.nbd.protocol import (
    BASE_ALLOCATION,
    FLAG_FIXED_NEWSTYLE,
    FLAG_NO_ZEROES,
    GREETING,
    GREETING_MAGIC,
    MAX_CONTEXTS,
    NO_ZEROES_BYTES,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    Info,
    Opt,
    Rep,
    TransmissionFlag,
)
from cdpcore.base.errors import CdpError, InvalidRequest
from cdpcore.nbd import connection as core

log = logging.getLogger("cdp.nbd")

T = TypeVar("T")

MAX_STRING_BYTES = 4096  # of the protocol
MAX_OPTION_BYTES = 65536  # ours: a name, and some queries
MAX_SKIP_BYTES = 1 << 20  # a longer option is skipped and refused; past this the connection is closed
MAX_OPTIONS = 256

BASE_ALLOCATION_ID = 1


class TlsMode(enum.StrEnum):
    """Whether a server takes TLS: never, where the client asks, or always."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


class HandshakeError(Exception):
    """The client broke the protocol or was turned away in a way that ends the connection; str() says how."""


class Stream(Protocol):
    """What a handshake talks through."""

    def recv_exact(self, n: int) -> bytes: ...
    def sendall(self, data: bytes) -> None: ...
    def start_tls(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """A metadata context that was selected, besides base:allocation: its id, its canonical name, and a PyCapsule
    "cdpcore.map"."""

    id: int
    name: str
    capsule: object


@dataclass(frozen=True, slots=True)
class Agreed:
    """The outcome of a handshake that leads to the transmission phase."""

    name: str
    export: Export
    read_only: bool
    structured: bool
    context_id: int | None
    fast_zero: bool
    contexts: tuple[Context, ...] = ()


@dataclass(frozen=True, slots=True)
class _Agreements:
    """What options so far have agreed; forgotten at STARTTLS."""

    structured: bool = False
    context_export: str | None = None  # the export for which base:allocation is selected ...
    contexts: tuple[Context, ...] = ()  # ... and others, of contexts_export
    contexts_export: str | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    """The export that this handshake holds open."""

    asked: str  # the name that the client used
    export: Export
    read_only: bool


class _Refuse(Exception):
    """An option's error reply."""

    def __init__(self, reply: Rep, message: str):
        super().__init__(message)
        self.reply = reply


class _Finished(Exception):
    """The client is done with the handshake and does not go on."""


def transmission_flags(*, read_only: bool, structured: bool, multi_conn: bool) -> TransmissionFlag:
    """The flags that an export is announced with."""
    f = TransmissionFlag
    flags = f.HAS_FLAGS | f.SEND_FLUSH | f.SEND_FUA | f.SEND_CACHE
    if read_only:
        flags |= f.READ_ONLY
    else:
        flags |= f.SEND_TRIM | f.SEND_WRITE_ZEROES | f.SEND_FAST_ZERO
    if structured:
        flags |= f.SEND_DF
    if multi_conn:
        flags |= f.CAN_MULTI_CONN
    return flags


def _clip(text: str) -> bytes:
    """UTF-8 of a text within the protocol's length, without NUL."""
    data = text.replace("\0", "?").encode("utf-8", "replace")
    return data if len(data) <= MAX_STRING_BYTES else data[:MAX_STRING_BYTES].decode("utf-8", "ignore").encode()


class _Fields:
    """Reads an option's data front to back; every step is checked against what is left."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def _take(self, n: int) -> bytes:
        if n > len(self._data) - self._at:
            raise _Refuse(Rep.ERR_INVALID, "the option's data is shorter than it says")
        self._at += n
        return self._data[self._at - n : self._at]

    def u16(self) -> int:
        return int.from_bytes(self._take(2))

    def u32(self) -> int:
        return int.from_bytes(self._take(4))

    def string(self, n: int) -> str:
        return _text(self._take(n))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refuse(Rep.ERR_INVALID, "the option's data is longer than it says")


def _text(data: bytes) -> str:
    if len(data) > MAX_STRING_BYTES:
        raise _Refuse(Rep.ERR_INVALID, f"a string of {len(data)} bytes; the protocol allows {MAX_STRING_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _Refuse(Rep.ERR_INVALID, "a string that is not UTF-8") from None
    if "\0" in text:
        raise _Refuse(Rep.ERR_INVALID, "a string with a NUL in it")
    return text


class Handshake:
    """One connection's handshake.

    resolver   names to exports
    tls        the mode; the stream's start_tls() does the work
    admit      called once before transmission; returns why not, or None where the connection may go on
    stopping   true once the server is shutting down
    """

    def __init__(self, stream: Stream, resolver: Resolver, *, tls: TlsMode = TlsMode.OFF,
                 admit: Callable[[], str | None] = lambda: None, stopping: Callable[[], bool] = lambda: False):
        self._stream = stream
        self._resolver = resolver
        self._tls = tls
        self._admit = admit
        self._stopping = stopping
        self._secure = False
        self._fixed = False
        self._no_zeroes = False
        self._agreed = _Agreements()
        self._open: _Open | None = None

    def run(self) -> Agreed | None:
        """Talk until the client chose an export (Agreed, whose export the caller closes) or left (None).

        Raises HandshakeError where the connection must be dropped, and what the stream raises.
        """
        try:
            result = self._run()
        except _Finished:
            return None
        finally:
            self._forget_export()
        return result

    def _run(self) -> Agreed:
        self._stream.sendall(GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))
        flags = int.from_bytes(self._stream.recv_exact(4))
        if flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
            raise HandshakeError(f"unknown client flags {flags:#x}")
        self._fixed = bool(flags & FLAG_FIXED_NEWSTYLE)
        self._no_zeroes = bool(flags & FLAG_NO_ZEROES)
        for _ in range(MAX_OPTIONS):
            agreed = self._option()
            if agreed:
                return agreed
        raise HandshakeError(f"more than {MAX_OPTIONS} options")

    def _option(self) -> Agreed | None:
        magic, option, length = OPTION_HEADER.unpack(self._stream.recv_exact(OPTION_HEADER.size))
        if magic != OPTION_MAGIC:
            raise HandshakeError(f"an option with magic {magic:#x}")
        if option == Opt.EXPORT_NAME:
            if length > MAX_STRING_BYTES:
                raise HandshakeError(f"an export name of {length} bytes")
            return self._export_name(self._stream.recv_exact(length))
        try:
            data = self._data(length)
            if option not in (Opt.GO, Opt.INFO, Opt.SET_META_CONTEXT, Opt.LIST_META_CONTEXT):
                self._forget_export()
            return self._answer(option, data)
        except _Refuse as refusal:
            self._reply(option, refusal.reply, _clip(str(refusal)))
            return None

    def _data(self, length: int) -> bytes | None:
        """An option's data; None where it was too long and was skipped."""
        if length <= MAX_OPTION_BYTES:
            return self._stream.recv_exact(length)
        if length > MAX_SKIP_BYTES:
            raise HandshakeError(f"an option of {length} bytes")
        while length:
            length -= len(self._stream.recv_exact(min(length, MAX_OPTION_BYTES)))
        return None

    def _answer(self, option: int, data: bytes | None) -> Agreed | None:
        if option == Opt.ABORT:
            with suppress(OSError):  # it may be gone already, which is fine
                self._reply(option, Rep.ACK)
            raise _Finished
        if option == Opt.STARTTLS:
            self._starttls(data)
            return None
        if self._tls is TlsMode.REQUIRE and not self._secure:
            raise _Refuse(Rep.ERR_TLS_REQD, "this server speaks TLS only")
        if self._stopping():
            raise _Refuse(Rep.ERR_SHUTDOWN, "the server is shutting down")
        if data is None:
            raise _Refuse(Rep.ERR_TOO_BIG, f"at most {MAX_OPTION_BYTES} bytes an option")
        if option == Opt.LIST:
            self._list(data)
        elif option == Opt.STRUCTURED_REPLY:
            _no_data(data)
            self._agreed = replace(self._agreed, structured=True)
            self._reply(option, Rep.ACK)
        elif option in (Opt.INFO, Opt.GO):
            return self._info(option, data)
        elif option in (Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT):
            self._meta_context(option, data)
        else:
            raise _Refuse(Rep.ERR_UNSUP, f"unknown option {option}")
        return None

    def _starttls(self, data: bytes | None) -> None:
        _no_data(data)
        if self._secure:
            raise _Refuse(Rep.ERR_INVALID, "TLS is on already")
        if self._tls is TlsMode.OFF or not self._fixed:
            raise _Refuse(Rep.ERR_POLICY, "this server does not speak TLS")
        self._reply(Opt.STARTTLS, Rep.ACK)
        self._stream.start_tls()
        self._secure = True
        self._agreed = _Agreements()

    def _list(self, data: bytes) -> None:
        _no_data(data)
        for name, description in self._guarded(lambda: list(self._resolver.list())):
            shown = name.encode()
            if len(shown) <= MAX_STRING_BYTES:
                self._reply(Opt.LIST, Rep.SERVER, struct.pack(">I", len(shown)) + shown + _clip(description))
        self._reply(Opt.LIST, Rep.ACK)

    def _info(self, option: int, data: bytes) -> Agreed | None:
        fields = _Fields(data)
        name = fields.string(fields.u32())
        wanted = {fields.u16() for _ in range(fields.u16())}
        fields.end()
        opened = self._export(name)
        export = opened.export
        if option == Opt.GO:
            self._check_admission()
        self._reply(option, Rep.INFO, struct.pack(">HQH", Info.EXPORT, export.size_bytes, self._flags(opened)))
        if Info.NAME in wanted:
            canonical = getattr(export, "name", name or self._default_name())
            self._reply(option, Rep.INFO, struct.pack(">H", Info.NAME) + _clip(canonical))
        if Info.DESCRIPTION in wanted:
            self._reply(option, Rep.INFO, struct.pack(">H", Info.DESCRIPTION) + _clip(export.description))
        if Info.BLOCK_SIZE in wanted:
            self._reply(option, Rep.INFO, struct.pack(">HIII", Info.BLOCK_SIZE, core.MIN_BLOCK_BYTES,
                                                      core.PREFERRED_BLOCK_BYTES, core.MAX_PAYLOAD_BYTES))
        self._reply(option, Rep.ACK)
        return self._take(name) if option == Opt.GO else None

    def _meta_context(self, option: int, data: bytes) -> None:
        setting = option == Opt.SET_META_CONTEXT
        if setting:
            self._agreed = replace(self._agreed, context_export=None, contexts=(), contexts_export=None)
        if not self._agreed.structured:
            raise _Refuse(Rep.ERR_INVALID, "negotiate structured replies first")
        fields = _Fields(data)
        name = fields.string(fields.u32())
        queries = [fields.string(fields.u32()) for _ in range(fields.u32())]
        fields.end()
        if any(":" not in query for query in queries):
            raise _Refuse(Rep.ERR_INVALID, "a metadata context's name begins with a namespace and a colon")
        export = self._export(name).export
        chosen = BASE_ALLOCATION in queries
        if not setting and (not queries or "base:" in queries):
            chosen = True
        if chosen:
            context_id = BASE_ALLOCATION_ID if setting else 0
            self._reply(option, Rep.META_CONTEXT, struct.pack(">I", context_id) + BASE_ALLOCATION.encode())
            if setting:
                self._agreed = replace(self._agreed, context_export=name)
        if hasattr(export, "context"):
            if setting:
                found = self._select_contexts(export, queries)
                self._agreed = replace(self._agreed, contexts=found, contexts_export=name)
            else:
                for shown in self._guarded(lambda: _matching(export, queries)):
                    self._reply(option, Rep.META_CONTEXT, struct.pack(">I", 0) + shown.encode())
        self._reply(option, Rep.ACK)

    def _select_contexts(self, export: Any, queries: list[str]) -> tuple[Context, ...]:
        """What the client gets of the contexts that the export knows; those it does not know are left out, as the
        protocol has it."""
        found: list[Context] = []
        for query in dict.fromkeys(queries):
            try:
                known = export.context(query) if len(found) < MAX_CONTEXTS else None
            except CdpError as error:
                log.warning("metadata context %r is not given: %s", query, error)
                continue
            if known is not None:
                context = Context(BASE_ALLOCATION_ID + 1 + len(found), *known)
                self._reply(Opt.SET_META_CONTEXT, Rep.META_CONTEXT, struct.pack(">I", context.id) + query.encode())
                found.append(context)
        return tuple(found)

    def _export_name(self, data: bytes) -> Agreed:
        if self._tls is TlsMode.REQUIRE and not self._secure:
            raise HandshakeError("EXPORT_NAME without TLS on a server that requires it")
        if self._stopping():
            raise HandshakeError("the server is shutting down")
        try:
            name = _text(data)
            opened = self._export(name)
            self._check_admission()
        except _Refuse as refusal:
            raise HandshakeError(f"EXPORT_NAME: {refusal}") from None
        head = struct.pack(">QH", opened.export.size_bytes, self._flags(opened))
        self._stream.sendall(head + bytes(0 if self._no_zeroes else NO_ZEROES_BYTES))
        return self._take(name)

    def _check_admission(self) -> None:
        why = self._admit()
        if why:
            raise _Refuse(Rep.ERR_POLICY, why)

    def _export(self, name: str) -> _Open:
        """The export of that name, opened now or by the option before: INFO and GO show the same moment."""
        if self._open and self._open.asked == name:
            return self._open
        self._forget_export()
        export = self._guarded(lambda: self._resolver.open(name or self._default_name()))
        try:
            size_bytes, read_only = export.size_bytes, export.read_only
            if getattr(export, "connect", None) is None:
                size_bytes, read_only = core.inspect(export.capsule)
            if size_bytes != export.size_bytes:
                raise InvalidRequest(f"the export says {export.size_bytes} bytes, its target {size_bytes}")
            self._open = _Open(name, export, read_only or export.read_only)
        except Exception:
            log.exception("export %r is unusable", name)
            close_export(export, name)
            raise _Refuse(Rep.ERR_UNKNOWN, "internal error: the export is unusable") from None
        return self._open

    def _default_name(self) -> str:
        """What the empty name stands for: the only export, else what the resolver makes of it."""
        names = [name for name, _ in self._resolver.list()]
        return names[0] if len(names) == 1 else ""

    def _flags(self, opened: _Open) -> int:
        return transmission_flags(read_only=opened.read_only, structured=self._agreed.structured,
                                  multi_conn=getattr(opened.export, "multi_conn", True))

    def _guarded(self, call: Callable[[], T]) -> T:
        """Call the resolver; its own errors reach the client as text, others the log only."""
        try:
            return call()
        except CdpError as error:
            raise _Refuse(Rep.ERR_UNKNOWN, str(error)) from None
        except Exception as error:
            log.exception("the resolver failed")
            raise _Refuse(Rep.ERR_UNKNOWN, f"internal error: {type(error).__name__}") from None

    def _take(self, name: str) -> Agreed:
        assert self._open and self._open.asked == name
        opened, self._open = self._open, None
        context_id = BASE_ALLOCATION_ID if self._agreed.context_export == name else None
        return Agreed(name, opened.export, opened.read_only, self._agreed.structured, context_id,
                      getattr(opened.export, "fast_zero", True),
                      self._agreed.contexts if self._agreed.contexts_export == name else ())

    def _forget_export(self) -> None:
        if self._open:
            opened, self._open = self._open, None
            close_export(opened.export, opened.asked)

    def _reply(self, option: int, reply: Rep, data: bytes = b"") -> None:
        self._stream.sendall(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data)


def _no_data(data: bytes | None) -> None:
    if data != b"":
        raise _Refuse(Rep.ERR_INVALID, "this option takes no data")


def _matching(export: Any, queries: list[str]) -> list[str]:
    """The contexts of an export that a client asks for: all, those of a namespace or kind ("qemu:"), or by name."""
    known = list(export.contexts())
    named = [query for query in queries if query not in known and not query.endswith(":") and _exists(export, query)]
    return [name for name in known if not queries
            or any(name == query or query.endswith(":") and name.startswith(query) for query in queries)] + named


def _exists(export: Any, query: str) -> bool:
    try:
        return export.context(query) is not None
    except CdpError:
        return False


def contexts_again(export: Any, known: list[tuple[int, str]]) -> tuple[Context, ...]:
    """The contexts of a connection whose export was opened again. Raises CdpError."""
    found = [(number, export.context(name)) for number, name in known]
    return tuple(Context(number, *context) for number, context in found if context is not None)

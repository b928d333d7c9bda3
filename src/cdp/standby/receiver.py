"""The standby's side: it connects to the owner, says what it has, and takes what comes, until it is stopped.

A connection that breaks is made again; nothing that was verified and durable is sent twice. Catalog and index are kept
by a thread of their own: what comes does not wait for them.
"""
from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cdp.nbd.listeners import TcpAddress, UnixAddress
from cdp.nbd.tls import client_context
from cdp.settings import Settings, parse_address
from cdp.standby import wire
from cdp.standby.copy import Copy
from cdp.standby.upkeep import Upkeep, geometry_of
from cdp.standby.wire import Channel, Gone, Message
from cdpcore.base.errors import (
    Busy,
    CdpError,
    Corruption,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    RefusedPoint,
    Unavailable,
)

log = logging.getLogger("cdp.standby")
DEFAULT_PORT = 10_819
CONNECT_S = 10.0
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0     # before the next attempt
UNSYNCED_BYTES = 16 << 20               # so much is taken before it is made durable, while more is there already
UPKEEP_S = 1.0
KINDS: dict[str, type[CdpError]] = {"InvalidRequest": InvalidRequest, "RefusedPoint": RefusedPoint,
                                    "NotFound": NotFound, "Busy": Busy, "Corruption": Corruption}
FINAL = (InvalidRequest, RefusedPoint, NotFound)    # repeating it does not help


@dataclass(frozen=True)
class Source:
    """Where the owner is. tls: None, or the folder of certificates, "" for the system's authorities."""

    text: str
    address: TcpAddress | UnixAddress
    tls: str | None = None

    @classmethod
    def parse(cls, text: str, certificates: str | None) -> Source:
        """HOST, HOST:PORT, tls://HOST[:PORT] or unix:PATH. Raises InvalidRequest."""
        if text.startswith("unix:"):
            if certificates is not None:
                raise InvalidRequest("a unix socket has no TLS", "leave off --tls-certificates")
            return cls(text, UnixAddress(text.removeprefix("unix:")))
        secure, rest = text.startswith("tls://"), text.removeprefix("tls://")
        if certificates is not None and not secure:
            raise InvalidRequest("--tls-certificates is said with tls://HOST", f"write --of tls://{rest}")
        if ":" not in rest or rest.endswith("]"):
            rest = f"{rest}:{DEFAULT_PORT}"
        host, port = parse_address(rest, "--of")
        return cls(text, TcpAddress(host, port), (certificates or "") if secure else None)

    def connect(self) -> socket.socket:
        """Raises Unavailable, InvalidRequest for unusable certificates."""
        try:
            if isinstance(self.address, UnixAddress):
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(CONNECT_S)
                sock.connect(self.address.path)
                return sock
            sock = socket.create_connection((self.address.host, self.address.port), CONNECT_S)
            if self.tls is not None:
                sock = client_context(self.tls or None).wrap_socket(sock, server_hostname=self.address.host)
            return sock
        except OSError as error:
            raise Unavailable(f"{self.text}: {error.strerror or error}",
                              "see whether that server runs, with --standby-listen") from None


class Receiver:
    """Args: folder: of the standby; source, name: of the volume, which is the export `name` there. stop: set from
    anywhere; wake() afterwards."""

    def __init__(self, folder: str, source: Source, name: str, settings: Settings):
        self._source, self._name = source, name
        self._copy = Copy(folder)
        self._upkeep = Upkeep(folder, settings)
        self._stop = threading.Event()
        self._channel: Channel | None = None
        self._unsynced = 0
        self._mark: Message | None = None
        self._wanted = threading.Event()        # for the thread that keeps catalog and index
        self._upkeep_failed: Exception | None = None
        self.received_bytes = 0
        self.connected = False

    @property
    def position(self) -> tuple[int, int, int]:
        return self._copy.position

    @property
    def following(self) -> bool:
        return self._copy.state.following

    def stop(self) -> None:
        """Any thread, and signal handlers."""
        self._stop.set()
        channel = self._channel
        if channel is not None:
            channel.close()

    def run(self, caught_up: Callable[[], bool], told: Callable[[str], None]) -> None:
        """Until stop(), or until caught_up() says so at a moment when all that the owner sent is durable. told: what is
        to be said to people. Raises what repeating it does not help against."""
        self._copy.begin(self._source.text, self._name)
        with closing(self._copy):
            keeper = threading.Thread(target=self._keep, name="cdp-standby-upkeep", daemon=True)
            keeper.start()
            try:
                self._follow(caught_up, told)
            finally:
                self._stop.set()
                self._wanted.set()
                keeper.join()

    def _follow(self, caught_up: Callable[[], bool], told: Callable[[str], None]) -> None:
        pause_s, said = PAUSE_S, ""
        while not self._stop.is_set():
            try:
                self._session(caught_up, told)
                pause_s, said = PAUSE_S, ""
            except FINAL as error:
                if not (isinstance(error, NotFound) and self.following):    # then it is not served just now
                    raise
                if error.message != said:
                    told(f"{error.message}; it is tried again")
                    said = error.message
            except Gone as error:
                if not self._stop.is_set():
                    if self.connected:
                        said, pause_s = "", PAUSE_S
                    if str(error) != said:
                        told(f"{self._source.text}: {error}; it is tried again")
                        said = str(error)
            except (Unavailable, Busy, Corruption, OutOfSpace) as error:
                if error.message != said:
                    told(f"{error.message}; it is tried again")
                    said = error.message
            self.connected = False
            if self._upkeep_failed is not None:
                raise self._upkeep_failed
            if self._stop.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._copy.disconnected()

    def _session(self, caught_up: Callable[[], bool], told: Callable[[str], None]) -> None:
        """One connection."""
        channel = self._channel = Channel(self._source.connect())
        self._mark, self._unsynced = None, 0
        with closing(channel):
            if self._stop.is_set():
                return
            channel.send_json(wire.HELLO, self._copy.hello())
            offer = self._expect(channel.receive(), wire.OFFER).fields
            volume = offer["volume"]
            geometry_of(volume)
            self._copy.offered(volume, offer["epoch"])
            self.connected = True
            told(f"following {self._name} at {self._source.text}")
            while not self._stop.is_set():
                self._take(channel, channel.receive())
                if self._mark is not None and (self._unsynced >= UNSYNCED_BYTES or not channel.waits()):
                    mark, self._mark = self._mark, None
                    self._copy.mark(mark.number, mark.offset, mark.value)
                    self._acknowledge(channel)
                    if self.following and caught_up():
                        self._stop.set()

    def _expect(self, message: Message, kind: int) -> Message:
        if message.kind == wire.END:
            fields = message.fields
            error = KINDS.get(str(fields.get("kind")), Unavailable)
            raise error(f"{self._source.text}: {fields.get('message')}", str(fields.get("hint") or ""))
        if message.kind != kind:
            raise Corruption(f"{self._source.text}: sent a message of kind {message.kind}, not {kind}",
                             "see whether both run this version of cdp")
        return message

    def _take(self, channel: Channel, message: Message) -> None:
        self.received_bytes += len(message.body)
        kind = message.kind
        if kind == wire.DATA:
            self._unsynced += len(message.body)
            self._copy.write(message.number, message.offset, message.body)
        elif kind == wire.MARK:
            self._mark = message
        elif kind == wire.SEALED:
            try:
                self._copy.sealed(message.number, message.offset, message.value)
            except Corruption:
                self._copy.drop(message.number)
                raise
            self._acknowledge(channel)
            if self.following:
                self._wanted.set()
        elif kind == wire.DESCRIPTION:
            fields = message.fields
            geometry_of(fields["volume"])
            self._copy.described(fields["volume"], fields["retention"])
            self._wanted.set()
        elif kind == wire.BASE:
            self._copy.base(message.offset, message.body)
        elif kind == wire.COMPLETE:
            fields = message.fields
            geometry_of(fields["volume"])
            self._copy.completed(fields["volume"], fields["retention"])
            self._wanted.set()
        else:
            self._expect(message, wire.DATA)

    def _acknowledge(self, channel: Channel) -> None:
        self._unsynced = 0
        channel.send(wire.ACK, *self._copy.position)

    # --- catalog and index --------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if self.following:
            self._wanted.set()
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._stop.is_set():
                return
            try:
                self.bring_up()
            except (Busy, Unavailable, OutOfSpace) as error:
                log.warning("%s: not catalogued: %s", self._copy.files.directory, error)
                if self._stop.wait(LONGEST_PAUSE_S):
                    return
                self._wanted.set()
            except Exception as error:      # noqa: BLE001  (of a thread: run() raises it)
                self._upkeep_failed = error
                if self._channel is not None:
                    self._channel.close()
                return
            if self._stop.wait(UPKEEP_S):
                return

    def bring_up(self) -> None:
        """Catalog and index of what is complete."""
        volume = self._copy.state.volume
        if volume is None or not self.following:
            return
        self._upkeep.describe(geometry_of(volume))
        self._upkeep.catalogue(self._stop.is_set)


def promote(folder: str, settings: Settings) -> dict[str, Any]:
    """Make a volume of a standby that nobody keeps any more. Returns what it has become. Raises InvalidRequest,
    Busy."""
    copy = Copy(folder)
    copy.take()
    with closing(copy):
        state, position = copy.state, copy.position
        if state.following and state.volume is not None:
            Upkeep(folder, settings).describe(geometry_of(state.volume))
        copy.release()
        return {"path": folder, "epoch": copy.state.epoch, "seq": position[2], "source": state.source,
                "name": state.name}

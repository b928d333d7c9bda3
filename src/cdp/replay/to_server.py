"""A replay onto an NBD server, ours or another, and a check of what the server holds at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdp.nbd.client import Agreed, ExportAddress, connect, disconnect, parse
from cdp.nbd.protocol import TransmissionFlag
from cdp.replay.engine import Disk, Outcome, Replay
from cdp.replay.session import Session
from cdp.replay.shape import MAX_REQUEST_BYTES, Shape
from cdp.replay.verify import MAX_PIECES, Pieces, Verified, cells_of, changes_of, compare
from cdp.trace.info import TraceInfo
from cdp.trace.model import Kind
from cdp.trace.reader import Trace
from cdpcore.base.errors import InvalidRequest, Unavailable
from cdpcore.trace import check as replaycheck
from cdpcore.trace.nbd_driver import NbdDriver


@dataclass
class Server:
    """An open connection and the one disk behind it."""

    address: ExportAddress
    export: Agreed
    disk: Disk
    session: Session

    def run(self, replay: Replay, progress: Callable[[Outcome], None] | None) -> Outcome:
        return replay.run(progress)

    def report(self) -> dict[str, Any]:
        driver = self.disk.driver
        return {
            "device": self.disk.name,
            "uri": self.address.uri,
            "size_bytes": self.export.size_bytes,
            "key": f"{self.session.key:08x}",
            "changes": driver.changes,
            "left_out": driver.left_out,
            "wrapped": self.disk.shape.wrapped,
            "split": self.disk.shape.split,
            "reads_checked_sectors": driver.sectors_checked,
        }

    def verify(self, trace: Trace, replay: Replay) -> dict[str, Any]:
        """What was written last, read back and compared. What was trimmed is not looked at: a server may leave it as it
        was."""
        found = Verified(moments=1)
        pieces = Pieces(MAX_PIECES, self.session.size_bytes)
        shape = self.session.shape()
        left = self.disk.driver.numbered
        for changes in changes_of(trace, self.session, shape):
            found.changes_in_trace += len(changes)
            changes = changes[:left]
            pieces.add(changes, found.changes_in_volume + 1)
            found.changes_in_volume += len(changes)
            left -= len(changes)
        kept = pieces.result()
        found.share_modelled = pieces.share
        start, end, low, high = cells_of(kept)
        owner, touched = np.zeros(len(start), np.uint64), np.zeros(len(start), np.uint8)
        replaycheck.paint(owner, touched, low, high, 0, len(kept))
        wrote = kept["kind"][owner.astype(np.intp) - 1] != Kind.TRIM if len(kept) else np.zeros(0, bool)
        compare(
            self.disk.driver.target(),
            start[wrote],
            end[wrote],
            owner[wrote],
            kept,
            trace,
            self.session,
            "at the end",
            found,
        )
        return found.report(self.address.uri, trace)


@contextmanager
def opened(
    uri: str,
    trace: Trace,
    info: TraceInfo | None,
    wanted: tuple[str, ...],
    *,
    depth: int,
    wrap: bool,
    check_reads: bool,
    limit: int | None,
) -> Iterator[Server]:
    """Connected, and the trace known to fit. Raises InvalidRequest where it does not."""
    from cdp.replay.to_volumes import place

    address = parse(uri)
    where = place(address.uri, trace, info, wanted)[0]
    sock, export = connect(address)
    with sock:
        if TransmissionFlag.READ_ONLY in export.flags:
            raise Unavailable(f"{uri}: the export is read-only", "give one that can be written")
        if where.need_bytes is not None and where.need_bytes > export.size_bytes and not wrap:
            raise InvalidRequest(
                f"{uri} has {export.size_bytes} bytes, the trace reaches to byte {where.need_bytes}",
                "use a larger export, or fold what is beyond with --wrap",
            )
        key = secrets.randbits(32) | 1
        most = min(MAX_REQUEST_BYTES, export.max_bytes)
        driver = NbdDriver(
            sock,
            key=key,
            max_bytes=most,
            size_bytes=export.size_bytes,
            export_flags=export.flags,
            depth=depth,
            pattern=not trace.has_payload,
        )
        driver.check_reads = check_reads and not trace.has_payload
        session = Session(
            uri,
            key,
            0,
            [source.path for source in trace.sources],
            {},
            where.device,
            limit,
            export.size_bytes,
            most,
            wrap,
            trace.has_payload,
        )
        disk = Disk(
            where.device or address.export or "export", where.index, driver, Shape(export.size_bytes, most, wrap)
        )
        yield Server(address, export, disk, session)
        disconnect(sock)

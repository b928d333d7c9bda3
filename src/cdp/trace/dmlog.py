"""Write logs with data: the kernel's dm-log-writes, QEMU's blklogwrites.

A pass reads entries and steps over the data; `payload()` reads the data of one record when it is wanted, so a replay
never holds more than what it asks for. In a plain file that is a pread; in a compressed one a second reader follows
the first, so payloads are best asked for in order (going back starts that reader again from the beginning).
"""
from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from cdp.trace import complaints
from cdp.trace.formats import Format
from cdp.trace.model import RECORD, Records, Tally
from cdp.trace.stream import ByteStream, TraceFile
from cdpcore.base.errors import Closed, InvalidRequest, Unavailable
from cdpcore.trace import parse as traceparse

_READ_BYTES = 1 << 16  # entries are a sector each with data between them: larger reads would mostly read data


class DmLogReader:
    """A TraceReader of write logs. An entry has no mark of its own, so nothing after a malformed one can be found:
    skip_bad ends the trace there, counted as bad."""

    epoch_ns: int | None = None

    def __init__(self, file: TraceFile, format: Format, *, skip_bad: bool = False):
        self.file = file
        self.path = file.path
        self.format = format
        self.tally = Tally()
        self.devices = traceparse.DeviceTable()
        self.devices.index(b"", 0)
        self._skip_bad = skip_bad
        self._stream: ByteStream | None = None

    def done_bytes(self) -> int:
        return self._stream.done_bytes() if self._stream else 0

    def read(self, batch_records: int) -> Iterator[Records]:
        self.tally = Tally()
        with self.file.open() as stream:
            self._stream = stream
            head = stream.peek(traceparse.DmLogParser.SUPER_BYTES)
            if len(head) < traceparse.DmLogParser.SUPER_BYTES:
                raise InvalidRequest(f"{self.path}: {self.format.name}: {len(head)} bytes: expected a super block")
            parser = traceparse.DmLogParser(head)
            if not parser.valid:
                _, byte, expected = parser.bad()
                raise InvalidRequest(f"{self.path}: {self.format.name}: super block, byte {byte}: expected {expected}")
            stream.skip(parser.skip_super())
            yield from self._entries(stream, parser, batch_records)

    def _entries(self, stream: ByteStream, parser: traceparse.DmLogParser, batch_records: int) -> Iterator[Records]:
        size = max(_READ_BYTES, parser.sector_bytes)
        out, filled = np.empty(batch_records, RECORD), 0
        rest, cut, step = b"", False, traceparse.MORE
        while step not in (traceparse.DONE, traceparse.BAD) and not cut:
            piece = rest + stream.read(size - len(rest)) if len(rest) < size else rest
            step, consumed, made = parser.run(piece, out.view(np.uint8), filled)
            filled += made
            rest = piece[consumed:]
            beyond = max(0, consumed - len(piece))
            cut = stream.skip(beyond) < beyond or (step == traceparse.MORE and made == 0 and len(piece) < size)
            if cut and beyond:
                filled -= 1  # the last entry's data is not all there
            self.tally.events = self.tally.records + filled
            if filled and (filled == batch_records or step in (traceparse.DONE, traceparse.BAD) or cut):
                self.tally.records += filled
                yield out[:filled]
                out, filled = np.empty(batch_records, RECORD), 0
        if cut or step == traceparse.BAD:
            number, byte, expected = parser.bad()
            if cut:
                number, byte = self.tally.records + 1, stream.position
                expected = f"{parser.entries} entries as its super block says, but the log ends"
            self.tally.bad = 1
            self.tally.first_bad = complaints.record_place(self.path, self.format.name, number, byte, expected)
            if not self._skip_bad:
                raise complaints.bad(self.tally.first_bad, "--skip-bad takes what comes before")


class PayloadSource:
    """Random access to the uncompressed bytes of a log. One thread. Usable until close()."""

    def __init__(self, file: TraceFile):
        self.path = file.path
        if not file.seekable:
            raise Unavailable(f"{file.path}: the data of a write log cannot be read from a pipe", "store it in a file")
        self._stream: ByteStream | None = ByteStream(file.path)

    def close(self) -> None:
        """Idempotent."""
        if self._stream:
            self._stream.close()
        self._stream = None

    def read(self, position: int, size: int) -> bytes:
        """Exactly `size` bytes from byte `position` of the log. Raises InvalidRequest where it is cut."""
        if self._stream is None:
            raise Closed(f"{self.path}: closed")
        if self._stream.compression:
            data = self._read_forward(self._stream, position, size)
        else:
            parts, have = [], 0
            while have < size:
                part = os.pread(self._stream.fileno(), min(size - have, 1 << 30), position + have)
                if not part:
                    break
                parts.append(part)
                have += len(part)
            data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) != size:
            raise InvalidRequest(f"{self.path}: expected {size} bytes of data at byte {position}, found {len(data)}",
                                 "get the whole log")
        return data

    def _read_forward(self, stream: ByteStream, position: int, size: int) -> bytes:
        if position < stream.position:
            stream.close()
            self._stream = stream = ByteStream(self.path)
        stream.skip(position - stream.position)
        return stream.read(size)

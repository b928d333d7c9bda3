"""One text trace, read in bounded pieces: columnar where columns are fixed and the piece is clean, else native.

Both give the same records; "native" or "columnar" can be forced for tests and measurements.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from cdp.trace import columnar, complaints
from cdp.trace.formats import Format
from cdp.trace.model import RECORD, Kind, Records, Tally
from cdp.trace.stages import Stages
from cdp.trace.stream import PIECE_BYTES, ByteStream, TraceFile
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import parse as traceparse

Engine = Literal["auto", "native", "columnar"]
_BOM = b"\xef\xbb\xbf"
_UTC = b"utc_ns,"  # how cdp's own CSV begins where its times are UTC
_TRIES = 4  # pieces that the columnar reader may decline from the start on before it is no longer asked


class TextReader:
    """A TraceReader of lines. stages: how blkparse events become records; assume: kind of the requests of a table
    without operations. One pass at a time, one thread."""

    def __init__(self, file: TraceFile, format: Format, *, skip_bad: bool = False, stages: Stages | None = None,
                 engine: Engine = "auto", piece_bytes: int = PIECE_BYTES, assume: Kind = Kind.WRITE):
        self.file = file
        self.path = file.path
        self.format = format
        self.tally = Tally()
        self.epoch_ns: int | None = None
        self.absolute = format.clock == "utc" or (
            format.name == "cdp"
            and file.head(len(_UTC) + len(_BOM)).removeprefix(_BOM).replace(b"\t", b",").startswith(_UTC))
        self.devices = traceparse.DeviceTable()
        self.columnar_pieces = self.native_pieces = 0  # how the last pass was read
        self._skip_bad = skip_bad
        self._stages = stages
        self._assume = assume
        self.census: traceparse.DeviceTable | None = None  # of the last pass
        self._columnar = format.columnar and engine != "native"
        self._piece_bytes = piece_bytes
        self._stream: ByteStream | None = None
        if engine == "columnar" and not format.columnar:
            raise InvalidRequest(f"format {format.name} has no fixed columns", "engine='native' reads it")

    @property
    def default_stage(self) -> int:
        """Bits of the stage of devices without a choice of their own."""
        return self._stages.default if self._stages else 0

    def done_bytes(self) -> int:
        return self._stream.done_bytes() if self._stream else 0

    def read(self, batch_records: int) -> Iterator[Records]:
        self.tally = Tally()
        self.columnar_pieces = self.native_pieces = 0
        with self.file.open() as stream:
            self._stream = stream
            if stream.peek(len(_BOM)) == _BOM:
                stream.read(len(_BOM))
            if not stream.peek(1):
                raise complaints.empty(self.path, self.format.title)
            yield from self._lines(stream, batch_records)

    def _lines(self, stream: ByteStream, batch_records: int) -> Iterator[Records]:
        self.census = self._stages.census() if self._stages else None
        if self.format.columns:
            parser = self.format.columns.parser(self.devices, skip_bad=self._skip_bad, kind=self._assume)
        else:
            parser = traceparse.TextParser(self.format.text, self.devices, skip_bad=self._skip_bad, census=self.census,
                                           stages=self._stages.default if self._stages else 0)
        rest, final = b"", False
        out, filled = np.empty(batch_records, RECORD), 0
        while not final:
            piece = stream.read(self._piece_bytes)
            final = len(piece) < self._piece_bytes
            piece = rest + piece if rest else piece
            used = self._header(parser, piece)
            records = self._by_columns(parser, piece, used, final)
            if records is not None:
                if filled:
                    yield self._give(out[:filled])
                    out, filled = np.empty(batch_records, RECORD), 0
                self._note(parser)
                for at in range(0, len(records), batch_records):
                    yield self._give(records[at : at + batch_records])
                rest = b"" if final else piece[piece.rfind(b"\n") + 1 :]
                continue
            self.native_pieces += 1
            view, step = memoryview(piece), traceparse.FULL
            while step == traceparse.FULL:
                step, consumed, made = parser.run(view[used:], final, out.view(np.uint8), filled)
                used += consumed
                filled += made
                self._note(parser)
                if filled == batch_records or (step == traceparse.BAD and filled):
                    yield self._give(out[:filled])
                    out, filled = np.empty(batch_records, RECORD), 0
            if step == traceparse.BAD:
                raise complaints.bad(self._place(parser))
            rest = piece[used:]
        if filled:
            yield self._give(out[:filled])
        if self.format.needs_header and not parser.header:
            raise InvalidRequest(f"{self.path}: {self.format.name}: no line {self.format.needs_header!r} in "
                                 f"{parser.lines} lines", "is the file of another format, or cut?")

    def _header(self, parser: traceparse.TextParser, piece: bytes) -> int:
        """Bytes of the header line at the very start; the native parser takes it, as it may set the parser's state."""
        known = self.format.signatures
        if not self._columnar or parser.lines or not known or not self.format.begins(piece):
            return 0
        used = piece.find(b"\n") + 1
        if used:
            parser.run(memoryview(piece)[:used], True, np.empty(1, RECORD).view(np.uint8))
        return used

    def _by_columns(self, parser: traceparse.TextParser, piece: bytes, start: int, final: bool) -> Records | None:
        """Records of all whole lines of the piece from `start`, or None: then the native parser reads them."""
        stop = len(piece) if final else piece.rfind(b"\n") + 1
        if not self._columnar or start >= stop or (self.format.needs_header and not parser.header):
            return None
        if self.native_pieces >= _TRIES and not self.columnar_pieces:
            return None  # this file is not written as the columnar reader wants it; stop trying
        body = piece[start:stop]
        lines = int(np.count_nonzero(np.frombuffer(body, np.uint8) == 10)) + (not body.endswith(b"\n"))
        records = columnar.parse(self.format.name, body, lines, parser.lines + 1, self.devices)
        if records is not None:
            parser.take_lines(lines)
            self.columnar_pieces += 1
        return records

    def _give(self, records: Records) -> Records:
        self.tally.records += len(records)
        return records

    def _note(self, parser: traceparse.TextParser) -> None:
        self.tally.events = parser.events
        self.tally.comments = parser.comments
        self.tally.skipped = parser.skipped
        self.absolute = self.format.clock == "utc" or parser.absolute
        if parser.bad_lines and not self.tally.bad:
            self.tally.first_bad = self._place(parser)
        self.tally.bad = parser.bad_lines

    def _place(self, parser: traceparse.TextParser) -> str:
        line, column, expected, found, _ = parser.bad()
        return complaints.line_place(self.path, self.format.name, line, column, expected, found)

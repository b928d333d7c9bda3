"""Binary blktrace files: events of one CPU, or of several in one stream; either byte order."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cdp.trace import complaints
from cdp.trace.formats import Format
from cdp.trace.model import RECORD, Records, Tally
from cdp.trace.stages import Stages
from cdp.trace.stream import PIECE_BYTES, ByteStream, TraceFile
from cdpcore.trace import parse as traceparse


class BlktraceReader:
    """A TraceReader of blktrace events; `stages` says which of them become records."""

    def __init__(self, file: TraceFile, format: Format, *, skip_bad: bool = False, stages: Stages,
                 piece_bytes: int = PIECE_BYTES):
        self.file = file
        self.path = file.path
        self.format = format
        self.tally = Tally()
        self.epoch_ns: int | None = None
        self.devices = traceparse.DeviceTable()
        self._skip_bad = skip_bad
        self._stages = stages
        self.census: traceparse.DeviceTable | None = None  # of the last pass
        self._piece_bytes = max(piece_bytes, 1 << 18)  # an event with the longest pdu is 64 KiB
        self._stream: ByteStream | None = None

    @property
    def default_stage(self) -> int:
        """Bits of the stage of devices without a choice of their own."""
        return self._stages.default if self._stages else 0

    def done_bytes(self) -> int:
        return self._stream.done_bytes() if self._stream else 0

    def read(self, batch_records: int) -> Iterator[Records]:
        self.tally = Tally()
        self.census = self._stages.census()
        parser = traceparse.BlktraceParser(self.devices, skip_bad=self._skip_bad, stages=self._stages.default,
                                           census=self.census)
        rest, final, base = b"", False, 0
        out, filled = np.empty(batch_records, RECORD), 0
        with self.file.open() as stream:
            self._stream = stream
            if not stream.peek(1):
                raise complaints.empty(self.path, self.format.title)
            while not final:
                fresh = stream.read(self._piece_bytes)
                final = len(fresh) < self._piece_bytes
                piece = rest + fresh
                view, used, step = memoryview(piece), 0, traceparse.FULL
                while step == traceparse.FULL:
                    step, consumed, made = parser.run(view[used:], final, out.view(np.uint8), filled)
                    self._note(parser, base + used)
                    used += consumed
                    filled += made
                    if filled == batch_records or (step == traceparse.BAD and filled):
                        self.tally.records += filled
                        yield out[:filled]
                        out, filled = np.empty(batch_records, RECORD), 0
                if step == traceparse.BAD:
                    raise complaints.bad(self.tally.first_bad)
                base += used
                rest = piece[used:]
        if filled:
            self.tally.records += filled
            yield out[:filled]

    def _note(self, parser: traceparse.BlktraceParser, base: int) -> None:
        """Counts so far; `base`: byte of the file where the piece of the last run began."""
        self.tally.events = parser.events
        self.epoch_ns = parser.epoch_ns
        number, at, expected = parser.bad()
        if number and not self.tally.first_bad:
            self.tally.first_bad = complaints.record_place(self.path, self.format.name, number, base + at, expected)
        self.tally.bad = parser.bad_events

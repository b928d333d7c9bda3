"""Opening traces: one file or many, of one format or several, as one stream of records by time.

    with open_trace(["a.csv.gz"]) as trace:
        for records in trace:            # NumPy arrays of RECORD, at most trace.batch_records long for one file
            ...
        print(trace.devices, trace.tally)

Files of one format are parts of one trace: the same device name is the same device (days of a trace, disks of a
server, blktrace's file per CPU). Files of different formats, or `separate=True`, never share a device.
Memory is bounded whatever the length: one piece and one batch for each file. One thread.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from cdp.trace import archive, blktrace, packed, stages, text
from cdp.trace.columns import Columns, parse_columns
from cdp.trace.detect import NoTrace, detect
from cdp.trace.dmlog import DmLogReader, PayloadSource
from cdp.trace.fixed import FixedReader
from cdp.trace.formats import STAGES, Clock, Format
from cdp.trace.merging import merge
from cdp.trace.model import BATCH_RECORDS, Kind, Records, Tally, TraceReader
from cdp.trace.stream import HEAD_BYTES, PIECE_BYTES, TraceFile
from cdpcore.base.errors import InvalidRequest, Unavailable

MAX_FILES = 1000  # each holds a descriptor and a piece
_PIECES_BYTES = 64 << 20  # for all files together
_PER_CPU = re.compile(r"(.*\.blktrace)\.\d+")
Align = Literal["clock", "start"]


@dataclass
class Source:
    """One file of a trace."""

    file: TraceFile
    format: Format
    reader: TraceReader
    group: str  # device names of different groups are different devices
    numbers: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))  # reader's device -> trace's

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def clock(self) -> Clock:
        absolute = isinstance(self.reader, text.TextReader) and self.reader.absolute
        return "utc" if absolute else self.format.clock


class Trace:
    """A trace, to be iterated as often as wanted (a pipe once). See the module; made by open_trace()."""

    def __init__(self, sources: Sequence[Source], *, align: Align, batch_records: int, no_traces: Sequence[str] = ()):
        self.sources = tuple(sources)
        self.batch_records = batch_records
        self.devices: list[str] = []
        self._align = align
        self._no_traces = tuple(no_traces)
        self._shown_names: set[str] = set()
        self._known: dict[tuple[str, str], int] = {}
        self._payloads: dict[int, PayloadSource] = {}
        names = sorted({source.format.name for source in sources})
        self.format = " + ".join(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. A pass that is under way closes its files when its iterator is closed."""
        for payload in self._payloads.values():
            payload.close()
        self._payloads.clear()
        for source in self.sources:
            source.file.close()

    @property
    def clock(self) -> Clock:
        """What ts_ns counts from."""
        clocks = {source.clock for source in self.sources}
        if len(clocks) > 1 or (self._align == "start" and clocks != {"none"}):
            return "relative"
        return clocks.pop()

    @property
    def epoch_ns(self) -> int | None:
        """UTC of ts_ns 0, where the trace has it: 0 for clock "utc"; for blktrace once its clock event was read."""
        if self.clock == "utc":
            return 0
        known = {source.reader.epoch_ns for source in self.sources}
        return known.pop() if len(known) == 1 and self._align == "clock" else None

    @property
    def tally(self) -> Tally:
        """Counts of the current or last pass, over all files."""
        total = Tally()
        for source in self.sources:
            total.add(source.reader.tally)
        return total

    @property
    def stages(self) -> list[stages.DeviceStages]:
        """Of blkparse and blktrace: events by device and stage in the current or last pass."""
        many = len({source.group for source in self.sources}) > 1
        tables = []
        for source in self.sources:
            reader = source.reader
            if isinstance(reader, (text.TextReader, blktrace.BlktraceReader)) and reader.census is not None:
                tables.append((f"{_stem(source.group)}:" if many else "", reader.census, reader.default_stage))
        return stages.summed(tables)

    @property
    def left_out(self) -> list[str]:
        """What is not among the records of the current or last pass, though the files hold it: a line each."""
        lines = [*self._no_traces, *(line for entry in self.stages if (line := entry.left_out))]
        if skipped := self.tally.skipped:
            lines.append(f"{skipped:,} sync_file_range requests: they make nothing durable")
        return lines

    @property
    def stored_bytes(self) -> int | None:
        """Size of all files as stored, or None where one is a pipe: the end of a progress bar."""
        sizes = [source.file.stored_bytes for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def done_bytes(self) -> int:
        """How much of stored_bytes the current pass has read."""
        return sum(source.reader.done_bytes() for source in self.sources)

    def __iter__(self) -> Iterator[Records]:
        """One pass, by time. Raises InvalidRequest at a malformed place, after the records before it were given."""
        groups: dict[str, list[Iterator[Records]]] = {}
        for number, source in enumerate(self.sources):
            groups.setdefault(source.group, []).append(self._one(number, source))
        streams = [merge(group) if len(group) > 1 else group[0] for group in groups.values()]
        if self._align == "start":
            streams = [_from_start(stream) for stream in streams]
        return merge(streams) if len(streams) > 1 else streams[0]

    def _one(self, number: int, source: Source) -> Iterator[Records]:
        for records in source.reader.read(self.batch_records):
            if len(source.reader.devices) != len(source.numbers):
                self._number_devices(source)
            records["device"] = source.numbers[records["device"]]
            records["source"] = number
            yield records

    def _number_devices(self, source: Source) -> None:
        table = source.reader.devices
        fresh = []
        for i in range(len(source.numbers), len(table)):
            name = source.format.device(*table.key(i)) if source.format.device else ""
            number = self._known.setdefault((source.group, name), len(self._known))
            if number == len(self.devices):
                self.devices.append(self._shown(source, name))
            fresh.append(number)
        source.numbers = np.concatenate([source.numbers, np.array(fresh, np.uint32)])

    def _shown(self, source: Source, name: str) -> str:
        """A device's name for people and file names: short, and different from every other."""
        label = source.group if source.group == source.format.name else _stem(source.path)
        tries = [f"{label}:{name}", f"{source.path}:{name}"] if name else [label, source.path]
        if name and len({other.group for other in self.sources}) == 1:
            tries.insert(0, name)
        unused = (shown for shown in tries if shown not in self._shown_names)
        shown = next(unused, f"{tries[-1]}#{len(self.devices)}")
        self._shown_names.add(shown)
        return shown

    @property
    def has_payload(self) -> bool:
        """The trace holds the data of its writes: payload() gives it."""
        return any(source.format.has_payload for source in self.sources)

    def payload(self, record: np.void, skip_bytes: int = 0, size_bytes: int | None = None) -> bytes:
        """Data of one write of a log with data, or a part of it; b"" where the record has none.

        record: one element of a batch. skip_bytes, size_bytes: the part, within length_bytes (default: the rest).
        Returns a copy. In a compressed log, ask in order: going back reads it from the start again.
        Raises InvalidRequest where the part is not within the record or the file is cut, Unavailable for a pipe.
        """
        position, length = int(record["payload"]), int(record["length_bytes"])
        size = length - skip_bytes if size_bytes is None else size_bytes
        if skip_bytes < 0 or size < 0 or skip_bytes + size > length:
            raise InvalidRequest(f"bytes {skip_bytes} to {skip_bytes + size} of a record of {length}")
        if not position or not size:
            return b""
        number = int(record["source"])
        if number not in self._payloads:
            self._payloads[number] = PayloadSource(self.sources[number].file)
        return self._payloads[number].read(position + skip_bytes, size)

    def place(self, record: np.void) -> str:
        """Where a record comes from, for messages: FILE:LINE, or FILE record N."""
        source = self.sources[int(record["source"])]
        number = int(record["number"])
        return f"{source.path}:{number}" if source.format.shape == "text" else f"{source.path} record {number}"


def _stem(path: str) -> str:
    """A file's name without the suffix of its compression and without one more suffix."""
    name = PurePath(path).name
    for suffix in packed.SUFFIXES:
        name = name.removesuffix(suffix)
    return PurePath(name).stem or name


def _from_start(stream: Iterator[Records]) -> Iterator[Records]:
    """Times from the first record's; an earlier one further on becomes 0."""
    start: np.uint64 | None = None
    for records in stream:
        if len(records):
            start = records["ts_ns"][0] if start is None else start
            records["ts_ns"] -= np.minimum(start, records["ts_ns"])
        yield records


def open_trace(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    format: str | None = None,
    *,
    columns: str | None = None,
    skip_bad: bool = False,
    stage: str | None = None,
    assume: Kind = Kind.WRITE,
    separate: bool = False,
    align: Align = "clock",
    batch_records: int = BATCH_RECORDS,
    engine: text.Engine = "auto",
) -> Trace:
    """Opens the files of a trace (or of several that are to be read together, by time).

    paths     one or at most MAX_FILES files; .gz, .zst, .xz and .bz2 are read directly; .tar and .zip stand for the
              traces in them, ARCHIVE/NAME for one of them; "-" is standard input
    format    a name or family of cdp.trace.formats; None: each file's is recognized by its content
    skip_bad  count malformed lines and records and go on, instead of raising at the first
    stage     blkparse and blktrace: the action that becomes a record, of D, C, Q, I; None: for each device D, else C,
              else Q, else I, whichever the files have of it (a pipe: its first 256 KiB)
    columns   instead of format: what the columns of a table of one's own hold (cdp.trace.columns)
    assume    kind of every request of a format without operations (oracleGeneral, tables without a column op)
    separate  files never share a device, also where they are of one format
    align     "clock": times as they are; "start": each trace's first record is time 0, which is needed to read traces
              with different clocks together
    engine    how fixed-column text is read; for tests and measurements

    Raises NotFound, Unavailable, and InvalidRequest (empty, unknown, or clocks that do not fit).
    """
    names = [os.fspath(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not names:
        raise InvalidRequest("no trace file given", "name at least one")
    if batch_records < 1:
        raise InvalidRequest(f"batches of {batch_records} records: at least 1")
    if stage is not None and stage not in STAGES:
        raise InvalidRequest(f"no stage {stage!r}", f"known: {', '.join(STAGES)}")
    if columns is not None and format is not None:
        raise InvalidRequest("a format and columns at once", "columns describe a table that is of no known format")
    table = None if columns is None else parse_columns(columns)
    files: list[TraceFile] = []
    formats: list[Format] = []
    no_traces: list[str] = []
    try:
        for name in names:
            _open_files(name, format, table, files, formats, no_traces)
        chosen = _stages(files, formats, stage, separate)
        piece_bytes = min(PIECE_BYTES, max(_PIECES_BYTES // len(files), 1 << 18))
        sources = []
        for file, form in zip(files, formats, strict=True):
            reader: TraceReader
            if form.shape == "text":
                reader = text.TextReader(file, form, skip_bad=skip_bad, piece_bytes=piece_bytes,
                                         stages=chosen.get(_group(file.path, form, separate)),
                                         engine=engine if form.columnar else "auto", assume=assume)
            elif form.shape == "fixed":
                reader = FixedReader(file, form, skip_bad=skip_bad, assume=assume, piece_bytes=piece_bytes)
            elif form.shape == "blktrace":
                reader = blktrace.BlktraceReader(file, form, skip_bad=skip_bad, piece_bytes=piece_bytes,
                                                 stages=chosen[_group(file.path, form, separate)])
            else:
                reader = DmLogReader(file, form, skip_bad=skip_bad)
            sources.append(Source(file, form, reader, _group(file.path, form, separate)))
        clocks = {source.clock for source in sources}
        if len(clocks) > 1 and align == "clock":
            raise InvalidRequest(f"traces with different clocks ({', '.join(sorted(clocks))}) have no common time",
                                 "align='start' (--align start) counts each from its first record")
    except BaseException:
        for file in files:
            file.close()
        raise
    return Trace(sources, align=align, batch_records=batch_records, no_traces=no_traces)


def _open_files(name: str, format: str | None, table: Columns | None, files: list[TraceFile], formats: list[Format],
                no_traces: list[str]) -> None:
    """Adds a file and its format, or those of an archive; of an archive's other files a line each to no_traces."""
    if len(files) >= MAX_FILES:
        raise _too_many(name)
    files.append(file := TraceFile(name))
    if not archive.kind(file.head(archive.HEAD_BYTES)):
        formats.append(table.format if table else detect(file, format))
        return
    if not file.seekable:
        raise Unavailable(f"{name}: an archive from a pipe", "store it in a file")
    files.pop().close()
    found = 0
    for member in archive.names(name):
        if len(files) >= MAX_FILES:
            raise _too_many(member)
        file = TraceFile(member)
        if not file.head(1):
            no_traces.append(f"{member}: empty")
            continue
        if table and not table.fits(file.head(HEAD_BYTES)):
            no_traces.append(f"{member}: no line with such columns")
            continue
        try:
            formats.append(table.format if table else detect(file, format, among_others=True))
        except NoTrace as error:
            no_traces.append(error.message)
            continue
        files.append(file)
        found += 1
    if not found:
        raise InvalidRequest(f"{name}: no trace among the {len(no_traces)} files of the archive",
                             "'cdp trace formats' lists what is known")


def _too_many(next_one: str) -> InvalidRequest:
    return InvalidRequest(f"{next_one}: at most {MAX_FILES} trace files at once", "give them in parts")


def _group(path: str, format: Format, separate: bool) -> str:
    """Files of one group share device names: parts of one trace."""
    per_cpu = _PER_CPU.fullmatch(path) if format.shape == "blktrace" else None
    if format.device is None or separate:
        return per_cpu[1] if per_cpu else path
    return format.name


def _stages(files: Sequence[TraceFile], formats: Sequence[Format], stage: str | None, separate: bool
            ) -> dict[str, stages.Stages]:
    """How the staged files of each group are read."""
    groups: dict[str, list[tuple[TraceFile, Format]]] = {}
    for file, form in zip(files, formats, strict=True):
        if form.staged:
            groups.setdefault(_group(file.path, form, separate), []).append((file, form))
    return {group: stages.Stages(STAGES[stage]) if stage else stages.choose(members)
            for group, members in groups.items()}

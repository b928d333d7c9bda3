"""A trace as a fio iolog (version 3) or as cdp's own CSV, in one pass and constant memory.

The iolog is what `fio --read_iolog` replays: microseconds from the first record, each device a file that is added and
opened before its first request and closed at the end. fio has no words for some of what traces hold; the report
counts what had to change: zeroing becomes a write, requests of no bytes and of kinds that the trace does not name
are left out, times that step back are held at the latest time so far, FUA and preflush are not kept.
The CSV keeps everything but where a record came from, and open_trace() reads it back to the same records.
"""
from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl

from cdp.trace.model import Flag, Kind, Records
from cdp.trace.reader import Trace
from cdpcore.base.errors import InvalidRequest, OutOfSpace, Unavailable

Target = Literal["fio", "csv"]


class Writer(Protocol):
    """What is written to. Raises OSError."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


_FIO_ACTION = {Kind.READ: "read", Kind.WRITE: "write", Kind.TRIM: "trim", Kind.ZERO: "write", Kind.FLUSH: "sync",
               Kind.OTHER: ""}
_LETTERS = {Flag.FUA: "F", Flag.PREFLUSH: "P", Flag.SYNC: "S", Flag.META: "M", Flag.AHEAD: "A"}
_FLAG_TEXT = ["".join(c for f, c in _LETTERS.items() if bits & f) or "-" for bits in range(32)]


@dataclass
class Conversion:
    """What was written, and what the target could not say."""

    records: int = 0  # written
    left_out: int = 0  # no bytes, or of a kind that the trace does not name (iolog only)
    zeroes_as_writes: int = 0
    held_back: int = 0  # times that stepped back
    flags_dropped: int = 0  # records whose FUA or preflush the iolog cannot say
    bad: int = 0
    first_bad: str = ""
    not_read: list[str] = field(default_factory=list)  # requests of the files that were no records, in words

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def target_for(path: str) -> Target:
    """By suffix: .csv is CSV, all else an iolog."""
    return "csv" if path.lower().endswith(".csv") else "fio"


def convert(trace: Trace, path: str, target: Target | None = None, *, force: bool = False, limit: int | None = None,
            progress: Callable[[int], None] | None = None, stdout: Writer | None = None) -> Conversion:
    """Writes the trace to `path` ("-": `stdout`, by default this process's standard output).

    An existing file is replaced only with force, and only once the new one is complete; on an error nothing is left
    behind. limit: at most so many records of the trace. Raises InvalidRequest, Unavailable.
    """
    result = Conversion()
    seen = 0
    with _output(path, force, stdout) as out:
        writer = _Csv(trace, out) if (target or target_for(path)) == "csv" else _Iolog(trace, out, result)
        for records in trace:
            if limit is not None:
                records = records[: limit - seen]
            seen += len(records)
            result.records += writer.write(records)
            if progress:
                progress(seen)
            if limit is not None and seen >= limit:
                break
        writer.close()
    result.bad, result.first_bad, result.not_read = trace.tally.bad, trace.tally.first_bad, trace.left_out
    return result


class _Csv:
    """Header "utc_ns,..." or "ts_ns,...", by the trace's clock."""

    def __init__(self, trace: Trace, out: Writer):
        self._trace, self._out, self._begun = trace, out, False

    def write(self, records: Records) -> int:
        self._begin()
        names = [_plain(name) for name in self._trace.devices]
        frame = pl.DataFrame({
            "ts": records["ts_ns"],
            "device": _words(names, records["device"]),
            "kind": _words([k.name.lower() for k in Kind], records["kind"]),
            "flags": _words(_FLAG_TEXT, records["flags"]),
            "offset": records["offset_bytes"],
            "length": records["length_bytes"],
        })
        _write(self._out, frame, ",")
        return len(records)

    def close(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            clock = "utc_ns" if self._trace.clock == "utc" else "ts_ns"
            self._out.write(f"{clock},device,kind,flags,offset_bytes,length_bytes\n".encode())
            self._begun = True


class _Iolog:
    def __init__(self, trace: Trace, out: Writer, result: Conversion):
        self._trace, self._out, self._result = trace, out, result
        self._files: list[str] = []
        self._start: np.uint64 | None = None
        self._latest = np.uint64(0)
        out.write(b"fio version 3 iolog\n")

    def write(self, records: Records) -> int:
        if not len(records):
            return 0
        if self._start is None:
            self._start = self._latest = records["ts_ns"][0]
        held = np.maximum.accumulate(np.maximum(records["ts_ns"], self._latest))
        self._result.held_back += int(np.count_nonzero(held != records["ts_ns"]))
        self._open_new(self._latest)
        self._latest = held[-1]
        kind = records["kind"]
        keep = (kind == Kind.FLUSH) | ((kind != Kind.OTHER) & (records["length_bytes"] > 0))
        self._result.left_out += int(np.count_nonzero(~keep))
        self._result.zeroes_as_writes += int(np.count_nonzero(keep & (kind == Kind.ZERO)))
        records, held = records[keep], held[keep]
        self._result.flags_dropped += int(np.count_nonzero(records["flags"] & (Flag.FUA | Flag.PREFLUSH)))
        frame = pl.DataFrame({
            "us": (held - self._start) // np.uint64(1000),
            "file": _words(self._files, records["device"]),
            "action": _words([_FIO_ACTION[k] for k in Kind], records["kind"]),
            "offset": records["offset_bytes"],
            "length": records["length_bytes"],
        })
        _write(self._out, frame, " ")
        return len(records)

    def _open_new(self, at: np.uint64) -> None:
        """add and open the devices met since the last batch, at the time reached before it."""
        assert self._start is not None
        us = (int(at) - int(self._start)) // 1000
        for name in self._trace.devices[len(self._files) :]:
            file = _plain(name)
            self._files.append(file)
            self._out.write(f"{us} {file} add\n{us} {file} open\n".encode())

    def close(self) -> None:
        us = (int(self._latest) - int(self._start or 0)) // 1000
        for file in self._files:
            self._out.write(f"{us} {file} close\n".encode())


def _plain(name: str) -> str:
    """A device's name without what the targets use as separators."""
    return re.sub(r"[\s,\"]", "_", name) or "_"


def _write(out: Writer, frame: pl.DataFrame, separator: str) -> None:
    """The rows of a frame. Through memory: an error of polars' own writer has no errno, so a closed pipe and a full
    disk would look alike."""
    rows = io.BytesIO()
    frame.write_csv(rows, include_header=False, separator=separator, quote_style="never")
    out.write(rows.getvalue())


def _words(words: list[str], numbers: np.ndarray[Any, Any]) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(numbers.astype(np.uint32))


@contextmanager
def _output(path: str, force: bool, stdout: Writer | None) -> Iterator[Writer]:
    """A file that appears under its name when complete, and not at all after an error."""
    if path == "-":
        out = stdout or sys.stdout.buffer
        yield out
        out.flush()
        return
    if os.path.exists(path) and not force:
        raise InvalidRequest(f"{path}: exists", "--force replaces it")
    part = f"{path}.part-{os.getpid()}"
    try:
        file = open(part, "wb", buffering=1 << 20)  # noqa: SIM115 (failing here is another error than failing below)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", "choose another place") from None
    try:
        with file:
            yield file
        os.replace(part, path)
    except OSError as error:
        _remove(part)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfSpace(f"{path}: {error.strerror}", "free space, then repeat; nothing was left behind") from None
        raise Unavailable(f"{path}: {error.strerror}", "see the system's log") from None
    except BaseException:
        _remove(part)
        raise


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)

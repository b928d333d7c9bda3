"""A table that the user describes: `time=2,op=4,offset=5:bytes,size=6` names the columns, from 1, and their units.

Its lines are read by the native parser (cdpcore.trace.parse), which finds the separator by itself.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from cdp.trace.formats import SECTOR, Clock, Format
from cdp.trace.model import RECORD, Kind
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import parse as traceparse

EXAMPLE = "time=2:us,op=4,offset=5:sectors,size=6"
_FORMAT = 14  # its number in cdpcore.trace.parse
_MAX_COLUMN = 256
_MAX_WORD_BYTES = 32
_SCALES = {"s": 9, "ms": 6, "us": 3, "ns": 0}  # the unit is 10^scale ns
_FILETIME_SCALE, _FILETIME_BASE_NS = 2, 11_644_473_600 * 10**9  # 100 ns since 1601
_BYTES = {"bytes": 1, "sectors": SECTOR, "kib": 1 << 10, "mib": 1 << 20}
_WORDS = {
    Kind.READ: ("read", "r", "rd", "rs", "ra"),
    Kind.WRITE: ("write", "w", "wr", "ws"),
    Kind.TRIM: ("trim", "t", "discard", "d", "unmap"),
    Kind.ZERO: ("zero", "z", "wz"),
    Kind.FLUSH: ("flush", "f", "sync", "fsync", "datasync", "fdatasync"),
    Kind.OTHER: ("other",),
}


@dataclass(frozen=True)
class Columns:
    """Which column (from 1; 0: none) holds what. time: in units of 10^time_scale ns; words: of column op."""

    offset: int
    size: int
    time: int = 0
    op: int = 0
    device: int = 0
    time_scale: int = 9
    time_base_ns: int = 0
    utc: bool = False
    offset_unit_bytes: int = 1
    size_unit_bytes: int = 1
    words: tuple[tuple[bytes, int], ...] = ()

    def parser(self, devices: traceparse.DeviceTable, *, skip_bad: bool, kind: Kind) -> traceparse.TextParser:
        """A parser of such lines. kind: of every request, where no column says it."""
        parser = traceparse.TextParser(_FORMAT, devices, skip_bad=skip_bad)
        parser.set_columns(time=self.time, op=self.op, device=self.device, offset=self.offset, size=self.size,
                           time_scale=self.time_scale, time_base_ns=self.time_base_ns, kind=int(kind),
                           offset_unit_bytes=self.offset_unit_bytes, size_unit_bytes=self.size_unit_bytes,
                           words=self.words)
        return parser

    @property
    def format(self) -> Format:
        """The table as a format, with a clock and devices if it has columns for them."""
        clock: Clock = "utc" if self.utc else "relative" if self.time else "none"
        return Format("columns", "table described by --columns", "text", clock,
                      _name if self.device else None, _FORMAT, has_kind=bool(self.op), columns=self)

    def fits(self, head: bytes) -> bool:
        """Whether a file that begins with `head` has a record among its first lines."""
        parser = self.parser(traceparse.DeviceTable(), skip_bad=True, kind=Kind.WRITE)
        return parser.run(head, True, np.empty(1, RECORD).view(np.uint8))[2] > 0


def _name(name: bytes, number: int) -> str:
    return name.decode("utf-8", "backslashreplace")


def parse_columns(text: str) -> Columns:
    """Columns from `name=COLUMN[:UNIT...]` parts between commas. Raises InvalidRequest."""
    found: dict[str, tuple[int, list[str]]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d{1,4})((?::[^:]+)*)\s*", part)
        if not match or match[1] not in ("time", "op", "device", "offset", "size"):
            raise _wrong(text, f"{part!r} is not time, op, device, offset or size = COLUMN[:UNIT]")
        if match[1] in found:
            raise _wrong(text, f"{match[1]} is given twice")
        if not 1 <= int(match[2]) <= _MAX_COLUMN:
            raise _wrong(text, f"column {match[2]}: 1 to {_MAX_COLUMN}")
        found[match[1]] = int(match[2]), match[3].split(":")[1:]
    if missing := [name for name in ("offset", "size") if name not in found]:
        raise _wrong(text, f"no {' and no '.join(missing)}")
    if len({column for column, _ in found.values()}) < len(found):
        raise _wrong(text, "one column for two things")
    columns = Columns(found["offset"][0], found["size"][0],
                      offset_unit_bytes=_unit(text, "offset", found["offset"][1]),
                      size_unit_bytes=_unit(text, "size", found["size"][1]))
    if "device" in found:
        if found["device"][1]:
            raise _wrong(text, "device has no unit")
        columns = replace(columns, device=found["device"][0])
    if "time" in found:
        columns = _with_time(text, columns, *found["time"])
    if "op" in found:
        columns = replace(columns, op=found["op"][0], words=_op_words(text, found["op"][1]))
    return columns


def _unit(text: str, name: str, units: list[str]) -> int:
    if not units:
        return 1
    unit = units[0].lower()
    size = _BYTES.get(unit) or (int(unit) if re.fullmatch(r"[1-9][0-9]{0,9}", unit) else 0)
    if not size or len(units) > 1:
        raise _wrong(text, f"unit of {name}: {', '.join(_BYTES)} or a number of bytes")
    return size


def _with_time(text: str, columns: Columns, column: int, units: list[str]) -> Columns:
    utc = units[-1:] == ["utc"]
    unit = [*(units[:-1] if utc else units)] or ["s"]
    if unit == ["filetime"]:
        return replace(columns, time=column, time_scale=_FILETIME_SCALE, time_base_ns=_FILETIME_BASE_NS, utc=True)
    if len(unit) > 1 or unit[0] not in _SCALES:
        raise _wrong(text, f"unit of time: {', '.join(_SCALES)}, with :utc for times since 1970, or filetime")
    return replace(columns, time=column, time_scale=_SCALES[unit[0]], utc=utc)


def _op_words(text: str, given: list[str]) -> tuple[tuple[bytes, int], ...]:
    words = {word.encode(): int(kind) for kind, known in _WORDS.items() for word in known}
    for entry in given:
        word, _, kind = entry.partition("=")
        raw = word.lower().encode()
        if not raw or len(raw) > _MAX_WORD_BYTES or kind.upper() not in Kind.__members__:
            raise _wrong(text, f"{entry!r}: WORD=KIND, KIND of {', '.join(k.name.lower() for k in Kind)}")
        words[raw] = int(Kind[kind.upper()])
    if len(words) > 64:
        raise _wrong(text, "too many words for operations")
    return tuple(words.items())


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"columns {text!r}: {why}", f"such as {EXAMPLE}")

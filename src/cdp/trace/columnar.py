"""The fixed-column CSV formats through polars: one piece of whole lines -> records, or None to decline.

polars reads 15 M of these lines a second on two cores where pyarrow reads 10 M (bench/bench_trace_parse.py), but it is
lenient: short lines become nulls, decimals beyond a scale are rounded, exponents are numbers. So a piece counts only
if nothing in it can have been read loosely; otherwise it is declined, and the native parser, which is strict and
knows lines and columns, reads that piece. Whatever this module accepts, the native parser reads to the same records
(a property test). All numbers are exact integers.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cdp.trace.model import END_BYTES, RECORD, Kind, Records
from cdpcore.trace import parse as traceparse

_U64 = pl.UInt64
_STR = pl.String
_FILETIME_1970 = 116_444_736_000_000_000
_MAX = (1 << 64) - 1

Column = NDArray[np.uint64]
Devices = traceparse.DeviceTable
Schema = dict[str, type[pl.DataType]]


class Decline(Exception):
    """This piece is not for the columnar reader."""


def parse(format_name: str, piece: bytes, lines: int, first_line: int, devices: Devices) -> Records | None:
    """Records of a piece of `lines` whole lines without a header, the first of them line `first_line` of its file."""
    schema, convert = _SCHEMAS[format_name]
    if b"\r" in piece and piece.count(b"\r") != piece.count(b"\r\n"):
        return None  # polars drops it from the end of any number
    try:
        frame = pl.read_csv(piece, has_header=False, schema=schema, quote_char=None)
        if frame.height != lines:
            return None
        out = np.zeros(lines, RECORD)
        convert(frame, out, devices)
    except (Decline, pl.exceptions.PolarsError):
        return None
    offset, length = out["offset_bytes"], out["length_bytes"]
    if offset.max() >= END_BYTES or length.max() > END_BYTES or (offset + length).max() > END_BYTES:
        return None
    out["number"] = np.arange(first_line, first_line + lines, dtype=np.uint64)
    return out


def _numbers(frame: pl.DataFrame, name: str, limit: int = _MAX) -> Column:
    """A column as u64, all present and at most `limit`."""
    column = frame[name]
    if column.null_count():
        raise Decline
    values: Column = column.to_numpy()
    if limit != _MAX and values.max() > limit:
        raise Decline
    return values


def _choice(frame: pl.DataFrame, name: str, words: dict[str, Kind], *, blank: Kind | None = None) -> NDArray[np.uint8]:
    """A column of words as kinds. Anything else, or a blank where none is allowed, declines."""
    column = frame[name]
    kinds = np.full(frame.height, 255 if blank is None else blank, np.uint8)
    known = column.null_count()
    if known and blank is None:
        raise Decline
    for word, kind in words.items():
        is_word = (column == word).fill_null(False).to_numpy()
        kinds[is_word] = kind
        known += int(np.count_nonzero(is_word))
    if known != frame.height:
        raise Decline
    return kinds


def _index(keys: Column, add: Callable[[int], int]) -> NDArray[np.uint32]:
    """Device numbers for keys; new ones are added in order of first appearance, as the native parsers do."""
    if keys[0] == keys[-1] and (keys == keys[0]).all():
        return np.full(len(keys), add(int(keys[0])), np.uint32)
    values, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    table = np.zeros(len(values), np.uint32)
    for at in np.argsort(first):
        table[at] = add(int(values[at]))
    found: NDArray[np.uint32] = table[inverse]
    return found


def _by_number(frame: pl.DataFrame, name: str, devices: Devices) -> NDArray[np.uint32]:
    return _index(_numbers(frame, name), lambda number: devices.index(b"", number))


def _by_name(frame: pl.DataFrame, name: str) -> tuple[Column, list[bytes]]:
    """Names as codes, and the names. Blanks around a name decline: the native parser strips them."""
    column = frame[name]
    if column.null_count():
        raise Decline
    if column[0] == column[-1] and column.n_unique() == 1:
        words = column.head(1)
        codes = np.zeros(frame.height, np.uint64)
    else:
        words = column.unique(maintain_order=True)
        codes = column.replace_strict(words, range(len(words)), return_dtype=pl.UInt64).to_numpy()
    names = [word.encode() for word in words]
    if any(name != name.strip(b" \t") or len(name) > 1024 for name in names):
        raise Decline
    return codes, names


def _msr(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    ts = _numbers(frame, "ts")
    if ts.min() < _FILETIME_1970 or ts.max() - _FILETIME_1970 > _MAX // 100 or frame["response"].null_count():
        raise Decline
    out["ts_ns"] = (ts - np.uint64(_FILETIME_1970)) * np.uint64(100)
    out["kind"] = _choice(frame, "type", {"Read": Kind.READ, "Write": Kind.WRITE})
    out["offset_bytes"] = _numbers(frame, "offset")
    out["length_bytes"] = _numbers(frame, "size")
    codes, names = _by_name(frame, "host")
    disks = _numbers(frame, "disk", (1 << 32) - 1)
    out["device"] = _index(codes << np.uint64(32) | disks,
                           lambda key: devices.index(names[key >> 32], key & 0xFFFFFFFF))


def _decimal_seconds(frame: pl.DataFrame, name: str) -> Column:
    """Seconds with at most 9 decimals -> ns. polars rounds further decimals and takes exponents: both decline."""
    text = frame[name]
    if text.null_count() or text.str.contains_any(["e", "E", "-"]).any():
        raise Decline
    ns = text.cast(pl.Decimal(38, 9), strict=True).to_physical()
    low, high, longest = ns.min(), ns.max(), text.str.len_bytes().max()
    assert isinstance(low, int) and isinstance(high, int) and isinstance(longest, int)
    if low < 0 or high > _MAX or longest > len(str(low // 10**9)) + 10:  # whole part, point, 9 decimals
        raise Decline
    values: Column = ns.cast(pl.UInt64).to_numpy()
    return values


def _systor(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    out["ts_ns"] = _decimal_seconds(frame, "ts")
    out["kind"] = _choice(frame, "type", {"R": Kind.READ, "W": Kind.WRITE}, blank=Kind.OTHER)
    out["offset_bytes"] = _numbers(frame, "offset")
    out["length_bytes"] = _numbers(frame, "size")
    out["device"] = _by_number(frame, "lun", devices)


def _alibaba(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    out["kind"] = _choice(frame, "op", {"R": Kind.READ, "W": Kind.WRITE})
    out["offset_bytes"] = _numbers(frame, "offset")
    out["length_bytes"] = _numbers(frame, "length")
    out["ts_ns"] = _numbers(frame, "ts", _MAX // 1000) * np.uint64(1000)
    out["device"] = _by_number(frame, "device", devices)


def _tencent(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    out["ts_ns"] = _numbers(frame, "ts", _MAX // 10**9) * np.uint64(10**9)
    out["offset_bytes"] = _numbers(frame, "offset", END_BYTES // 512) * np.uint64(512)
    out["length_bytes"] = _numbers(frame, "size", END_BYTES // 512) * np.uint64(512)
    out["kind"] = _numbers(frame, "type", 1)
    out["device"] = _by_number(frame, "volume", devices)


def _cloudphysics(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    version = _numbers(frame, "version", 2)
    if version.min() < 1:
        raise Decline
    out["ts_ns"] = _numbers(frame, "time", _MAX // 10**9) * np.uint64(10**9)
    codes, names = _by_name(frame, "op")
    try:
        ops = [int(name, 16) if name.isalnum() else 256 for name in names]
    except ValueError:
        raise Decline from None
    if max(ops) > 255:
        raise Decline
    out["kind"] = np.array([traceparse.scsi_kind(op) for op in ops], np.uint8)[codes]
    length, offset = _numbers(frame, "size"), _numbers(frame, "lbn", END_BYTES // 512)
    flush = out["kind"] == Kind.FLUSH
    if flush.any() and (offset[flush] >= END_BYTES // 512).any():
        raise Decline
    if flush.any() and (length[flush] > END_BYTES - offset[flush] * np.uint64(512)).any():
        raise Decline
    out["offset_bytes"] = np.where(flush, np.uint64(0), offset * np.uint64(512))
    out["length_bytes"] = np.where(flush, np.uint64(0), length)
    out["device"] = devices.index(b"", 0)


_FLAG_LETTERS = b"FPSMA"


def _cdp(frame: pl.DataFrame, out: Records, devices: Devices) -> None:
    out["ts_ns"] = _numbers(frame, "ts")
    out["kind"] = _choice(frame, "kind", {kind.name.lower(): kind for kind in Kind})
    codes, words = _by_name(frame, "flags")
    if any(word != b"-" and word.strip(_FLAG_LETTERS) for word in words):
        raise Decline
    bits = [0 if word == b"-" else sum(1 << _FLAG_LETTERS.index(letter) for letter in set(word)) for word in words]
    out["flags"] = np.array(bits, np.uint8)[codes]
    out["offset_bytes"] = _numbers(frame, "offset")
    out["length_bytes"] = _numbers(frame, "length")
    flush = out["kind"] == Kind.FLUSH
    if (out["offset_bytes"][flush] != 0).any() or (out["length_bytes"][flush] != 0).any():
        raise Decline
    codes, names = _by_name(frame, "device")
    out["device"] = _index(codes, lambda code: devices.index(names[code], 0))


_SCHEMAS: dict[str, tuple[Schema, Callable[[pl.DataFrame, Records, Devices], None]]] = {
    "msr": ({"ts": _U64, "host": _STR, "disk": _U64, "type": _STR, "offset": _U64, "size": _U64, "response": _STR},
            _msr),
    "systor": ({"ts": _STR, "response": _STR, "type": _STR, "lun": _U64, "offset": _U64, "size": _U64}, _systor),
    "alibaba": ({"device": _U64, "op": _STR, "offset": _U64, "length": _U64, "ts": _U64}, _alibaba),
    "tencent": ({"ts": _U64, "offset": _U64, "size": _U64, "type": _U64, "volume": _U64}, _tencent),
    "cloudphysics": ({"version": _U64, "time": _U64, "op": _STR, "size": _U64, "lbn": _U64}, _cloudphysics),
    "cdp": ({"ts": _U64, "device": _STR, "kind": _STR, "flags": _STR, "offset": _U64, "length": _U64}, _cdp),
}

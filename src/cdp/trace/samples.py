"""Small traces in every format, written from the formats' definitions (docs/traces.md): for tests, benchmarks, demos.

The writers share nothing with the parsers: plain Python and struct, one request at a time. A format can say only so
much; GRAINS says what (times in microseconds, no flushes, ...), and a request that does not fit is refused.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cdp.trace.model import Flag, Kind
from cdpcore.base.errors import InvalidRequest

NO_FLAGS = Flag(0)
_S = 10**9
_RW = frozenset({Kind.READ, Kind.WRITE})
_BLOCK = frozenset({Kind.READ, Kind.WRITE, Kind.TRIM, Kind.FLUSH})


@dataclass(frozen=True)
class Request:
    """One request; device: the name that reading gives."""

    ts_ns: int
    device: str
    kind: Kind
    offset_bytes: int
    length_bytes: int
    flags: Flag = NO_FLAGS


@dataclass(frozen=True)
class Grain:
    """What a format can say: units of time, offset and length, kinds, flags, the form of device names."""

    time_ns: int = 1
    offset_bytes: int = 1
    length_bytes: int = 1
    kinds: frozenset[Kind] = _RW
    flags: Flag = NO_FLAGS
    devices: str = "number"  # number, name, host, pair, or none
    max_time_ns: int = (1 << 64) - 1
    max_length_bytes: int = 1 << 62
    min_length_bytes: int = 0


_U32 = (1 << 32) - 1
GRAINS: dict[str, Grain] = {
    "msr": Grain(time_ns=100, devices="host"),
    "systor": Grain(kinds=_RW | {Kind.OTHER}),
    "alibaba": Grain(time_ns=1000),
    "tencent": Grain(time_ns=_S, offset_bytes=512, length_bytes=512),
    "cloudphysics": Grain(time_ns=_S, offset_bytes=512, kinds=_RW | {Kind.FLUSH, Kind.OTHER}, devices="none"),
    "spc": Grain(offset_bytes=512),
    "cdp": Grain(kinds=frozenset(Kind), flags=Flag(31), devices="name"),
    "fiu": Grain(offset_bytes=512, length_bytes=512, devices="pair"),
    "disksim-ns": Grain(offset_bytes=512, length_bytes=512),
    "disksim-ms": Grain(offset_bytes=512, length_bytes=512),
    "replayer": Grain(),
    "blkreplay": Grain(offset_bytes=512, length_bytes=512, devices="none"),
    "fio": Grain(time_ns=1000, kinds=_BLOCK, devices="name"),
    "blkparse": Grain(offset_bytes=512, length_bytes=512, kinds=_BLOCK, flags=Flag(31), devices="pair",
                      min_length_bytes=512),
    "blktrace": Grain(offset_bytes=512, kinds=_BLOCK, flags=Flag(31), devices="pair", max_length_bytes=_U32,
                      min_length_bytes=512),
    "vscsi-v1": Grain(time_ns=1000, offset_bytes=512, kinds=_RW | {Kind.FLUSH, Kind.OTHER}, devices="none",
                      max_length_bytes=_U32),
    "vscsi-v2": Grain(time_ns=1000, offset_bytes=512, kinds=_RW | {Kind.FLUSH, Kind.OTHER}, devices="none",
                      max_length_bytes=_U32),
    "oracle-general": Grain(time_ns=_S, offset_bytes=512, kinds=frozenset({Kind.WRITE}), devices="none",
                            max_time_ns=_U32 * _S, max_length_bytes=_U32),
}


def encode(format_name: str, requests: Sequence[Request]) -> bytes:
    """A whole file of the format. Raises InvalidRequest for a request that the format cannot say."""
    grain = GRAINS[format_name]
    for r in requests:
        if (r.ts_ns % grain.time_ns or r.offset_bytes % grain.offset_bytes or r.length_bytes % grain.length_bytes
                or r.kind not in grain.kinds or r.flags & ~grain.flags or r.ts_ns > grain.max_time_ns):
            raise InvalidRequest(f"format {format_name} cannot say {r}")
    return _WRITERS[format_name](requests)


def random_requests(format_name: str, count: int, seed: int = 1, span_bytes: int = 64 << 30) -> list[Request]:
    """Requests that the format can say: 70 % writes of 512 B to 64 KiB, in time order, on up to four devices."""
    grain = GRAINS[format_name]
    rng = np.random.default_rng(seed)
    start = 1_455_591_000 * _S
    step = max(grain.time_ns, 20_000 // grain.time_ns * grain.time_ns)
    ts = start + np.cumsum(rng.integers(0, 3, count)) * step
    offset = rng.integers(0, span_bytes // 512, count) * 512
    length = rng.integers(1, 129, count) * 512
    write = rng.random(count) < 0.7 if Kind.READ in grain.kinds else np.ones(count, bool)
    names = DEVICE_EXAMPLES[grain.devices]
    device = rng.integers(0, len(names), count)
    return [Request(t, names[d], Kind.WRITE if w else Kind.READ, o, n)
            for t, d, w, o, n in zip(ts.tolist(), device.tolist(), write.tolist(), offset.tolist(), length.tolist(),
                                     strict=True)]


DEVICE_EXAMPLES = {"number": ["0", "1", "2", "7"], "name": ["/dev/vda", "disk-b"], "host": ["mds.0", "prxy.1"],
                   "pair": ["8,0", "259,3"], "none": [""]}


def _lines(*head: str) -> Callable[[Callable[[Request], str]], Callable[[Sequence[Request]], bytes]]:
    """Makes a writer of a file from a writer of a line."""

    def make(line: Callable[[Request], str]) -> Callable[[Sequence[Request]], bytes]:
        return lambda requests: "".join([*(h + "\n" for h in head), *(line(r) + "\n" for r in requests)]).encode()

    return make


@_lines()
def _msr(r: Request) -> str:
    host, disk = r.device.rsplit(".", 1)
    ticks = r.ts_ns // 100 + 116_444_736_000_000_000
    return f"{ticks},{host},{disk},{r.kind.name.capitalize()},{r.offset_bytes},{r.length_bytes},1234"


@_lines("Timestamp,Response,IOType,LUN,Offset,Size")
def _systor(r: Request) -> str:
    kind = {Kind.READ: "R", Kind.WRITE: "W", Kind.OTHER: ""}[r.kind]
    response = "0.000123456" if kind else ""
    return f"{r.ts_ns // _S}.{r.ts_ns % _S:09d},{response},{kind},{r.device},{r.offset_bytes},{r.length_bytes}"


@_lines()
def _alibaba(r: Request) -> str:
    return f"{r.device},{r.kind.name[0]},{r.offset_bytes},{r.length_bytes},{r.ts_ns // 1000}"


@_lines()
def _tencent(r: Request) -> str:
    return f"{r.ts_ns // _S},{r.offset_bytes // 512},{r.length_bytes // 512},{int(r.kind)},{r.device}"


_SCSI = {Kind.READ: 0x28, Kind.WRITE: 0x2A, Kind.FLUSH: 0x35, Kind.OTHER: 0x12}


@_lines("version,time,op,size,lbn")
def _cloudphysics(r: Request) -> str:
    return f"1,{r.ts_ns // _S},{_SCSI[r.kind]:x},{r.length_bytes},{r.offset_bytes // 512}"


@_lines()
def _spc(r: Request) -> str:
    return (f"{r.device},{r.offset_bytes // 512},{r.length_bytes},{r.kind.name[0].lower()},"
            f"{r.ts_ns // _S}.{r.ts_ns % _S:09d}")


@_lines("ts_ns,device,kind,flags,offset_bytes,length_bytes")
def _cdp(r: Request) -> str:
    letters = "".join(c for c, f in zip("FPSMA", Flag, strict=True) if r.flags & f) or "-"
    return f"{r.ts_ns},{r.device},{r.kind.name.lower()},{letters},{r.offset_bytes},{r.length_bytes}"


@_lines()
def _fiu(r: Request) -> str:
    return (f"{r.ts_ns} 4892 kjournald {r.offset_bytes // 512} {r.length_bytes // 512} {r.kind.name[0]} "
            f"{r.device.replace(',', ' ')} 0fd6b9d5b8a5a0c4f57b1d7ecb1d0b8a")


@_lines()
def _disksim_ns(r: Request) -> str:
    return f"{r.ts_ns} {r.device} {r.offset_bytes // 512} {r.length_bytes // 512} {int(r.kind == Kind.READ)}"


@_lines()
def _disksim_ms(r: Request) -> str:
    return (f"{r.ts_ns // 10**6}.{r.ts_ns % 10**6:06d} {r.device} {r.offset_bytes // 512} {r.length_bytes // 512} "
            f"{int(r.kind == Kind.READ):x}")


@_lines()
def _replayer(r: Request) -> str:
    return (f"{r.ts_ns // 10**6}.{r.ts_ns % 10**6:06d} {r.device} {r.offset_bytes} {r.length_bytes} "
            f"{int(r.kind == Kind.READ)}")


@_lines("A note by whoever made it.", "", "start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0")
def _blkreplay(r: Request) -> str:
    return (f"{r.ts_ns // _S:7d}.{r.ts_ns % _S:09d} ; {r.offset_bytes // 512:12d} ; {r.length_bytes // 512:4d} ; "
            f"{r.kind.name[0]} ; 0.0 ; 0.0")


_FIO = {Kind.READ: "read", Kind.WRITE: "write", Kind.TRIM: "trim", Kind.FLUSH: "sync"}


def _fio(requests: Sequence[Request]) -> bytes:
    lines = ["fio version 3 iolog"]
    names = list(dict.fromkeys(r.device for r in requests))
    lines += [f"0 {name} {action}" for name in names for action in ("add", "open")]
    lines += [f"{r.ts_ns // 1000} {r.device} {_FIO[r.kind]} {r.offset_bytes} {r.length_bytes}" for r in requests]
    lines += [f"{requests[-1].ts_ns // 1000} {name} close" for name in names] if requests else []
    return ("\n".join(lines) + "\n").encode()


def fio_version_2(requests: Sequence[Request]) -> bytes:
    """The same as an iolog of version 2: times as waits, each relative to the one before."""
    lines, now = ["fio version 2 iolog"], 0
    for name in dict.fromkeys(r.device for r in requests):
        lines += [f"{name} add", f"{name} open"]
    for r in requests:
        if r.ts_ns // 1000 > now:
            lines.append(f"{r.device} wait {r.ts_ns // 1000 - now} 0")
            now = r.ts_ns // 1000
        lines.append(f"{r.device} {_FIO[r.kind]} {r.offset_bytes} {r.length_bytes}")
    return ("\n".join(lines) + "\n").encode()


def _rwbs(r: Request) -> str:
    if r.kind == Kind.FLUSH:
        return "FN" + _rwbs_tail(r)
    operation = {Kind.READ: "R", Kind.WRITE: "W", Kind.TRIM: "D"}[r.kind]
    before, after = "F" if r.flags & Flag.PREFLUSH else "", "F" if r.flags & Flag.FUA else ""
    return before + operation + after + _rwbs_tail(r)


def _rwbs_tail(r: Request) -> str:
    return "".join(letter for letter, flag in (("A", Flag.AHEAD), ("S", Flag.SYNC), ("M", Flag.META)) if r.flags & flag)


def _blkparse_line(r: Request, number: int, action: str) -> str:
    time = f"{r.ts_ns // _S:5d}.{r.ts_ns % _S:09d}"
    head = f"{r.device:>7} {0:2d} {number:8d} {time} {1867:5d} {action:>2} {_rwbs(r):>3} "
    if r.kind == Kind.FLUSH:
        return head + ("0 [0]" if action == "C" else "[jbd2/dm-0-8]")
    return head + f"{r.offset_bytes // 512} + {r.length_bytes // 512} " + ("[0]" if action == "C" else "[jbd2/dm-0-8]")


def _blkparse(requests: Sequence[Request]) -> bytes:
    lines = []
    for i, r in enumerate(requests):
        lines += [_blkparse_line(r, 3 * i + j, action) for j, action in enumerate("QDC")]
    lines += ["CPU0 (sda):", " Reads Queued:           0,        0KiB\t Writes Queued:          18,        0KiB"]
    return ("\n".join(lines) + "\n").encode()


def _blktrace_event(order: str, r: Request, number: int, what: int) -> bytes:
    category = (4 if r.kind == Kind.FLUSH or r.flags & Flag.PREFLUSH else 0) | (8 if r.flags & Flag.SYNC else 0)
    category |= {Kind.READ: 1, Kind.WRITE: 2, Kind.TRIM: 0x2002, Kind.FLUSH: 0}[r.kind]
    category |= (0x1000 if r.flags & Flag.META else 0) | (0x800 if r.flags & Flag.AHEAD else 0)
    category |= 0x8000 if r.flags & Flag.FUA else 0
    major, minor = map(int, r.device.split(","))
    return struct.pack(order + "IIQQIIIIIHH", 0x65617407, number, r.ts_ns, r.offset_bytes // 512, r.length_bytes,
                       category << 16 | what, 42, major << 20 | minor, number % 4, 0, 0)


def blktrace(requests: Sequence[Request], order: str = "<", clock: tuple[int, int] | None = None) -> bytes:
    """blktrace events Q, D, C of each request, a remap before them, a name and, with clock=(UTC s, ns), the time event.

    order: "<" or ">", the tracer's byte order (the remap's own data is big-endian always).
    """
    def notify(what: int, data: bytes) -> bytes:
        head = (0x65617407, 0, 0, 0, 0, 0x400 << 16 | what, 42, 0, 0, 0, len(data))
        return struct.pack(order + "IIQQIIIIIHH", *head) + data

    out = [notify(0, b"jbd2/sda1-8".ljust(16, b"\0"))]
    if clock:
        out.append(notify(1, struct.pack(order + "II", *clock)))
    for i, r in enumerate(requests):
        remap = bytearray(_blktrace_event(order, r, 4 * i, 15))
        remap[46:48] = struct.pack(order + "H", 16)
        out += [bytes(remap) + struct.pack(">IIQ", 8 << 20, 9 << 20, 7)]
        out += [_blktrace_event(order, r, 4 * i + 1 + j, what) for j, what in enumerate((1, 7, 8))]
    return b"".join(out)


def _vscsi_1(requests: Sequence[Request]) -> bytes:
    return b"".join(struct.pack("<IIIHHQQ", i, r.length_bytes, 1, _SCSI[r.kind], 0x100, r.offset_bytes // 512,
                                r.ts_ns // 1000) for i, r in enumerate(requests))


def _vscsi_2(requests: Sequence[Request]) -> bytes:
    return b"".join(struct.pack("<HHIIIQQQ", _SCSI[r.kind], 0x200, i, r.length_bytes, 1, r.offset_bytes // 512,
                                r.ts_ns // 1000, 99) for i, r in enumerate(requests))


def _oracle(requests: Sequence[Request]) -> bytes:
    return b"".join(struct.pack("<IQIq", r.ts_ns // _S, r.offset_bytes // 512, r.length_bytes, -1) for r in requests)


def write_log(entries: Sequence[tuple[int, int, int, bytes]], sector_bytes: int = 512) -> bytes:
    """A dm-log-writes log of entries (sector, sectors, flags, data), sectors of sector_bytes. The data of a mark
    (flag 8) goes into the entry's own sector, that of a write behind it; a discard (flag 4) has none."""
    out = [struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), sector_bytes).ljust(sector_bytes, b"\0")]
    for sector, sectors, flags, data in entries:
        mark = flags & 8
        head = struct.pack("<QQQQ", sector, sectors, flags, len(data) if mark else 0) + (data if mark else b"")
        out.append(head.ljust(sector_bytes, b"\0"))
        if not mark and not flags & 4:
            out.append(data)
    return b"".join(out)


_WRITERS: dict[str, Callable[[Sequence[Request]], bytes]] = {
    "msr": _msr, "systor": _systor, "alibaba": _alibaba, "tencent": _tencent, "cloudphysics": _cloudphysics,
    "spc": _spc, "cdp": _cdp, "fiu": _fiu, "disksim-ns": _disksim_ns, "disksim-ms": _disksim_ms,
    "replayer": _replayer, "blkreplay": _blkreplay, "fio": _fio, "blkparse": _blkparse, "blktrace": blktrace,
    "vscsi-v1": _vscsi_1, "vscsi-v2": _vscsi_2, "oracle-general": _oracle,
}

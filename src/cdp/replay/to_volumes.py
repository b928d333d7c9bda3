"""A replay into volumes of this machine: which device goes where, sessions, bookmarks, what it cost, verification.

Nothing is changed before everything is known to fit: the trace has been read once (unless it is a pipe, or scan=False),
the volumes are large enough (or wrap, or to be created), and each device has its own.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import cdp
from cdp.moments.records import changes_content
from cdp.replay import session as sessions
from cdp.replay.engine import Disk, Outcome, Replay
from cdp.replay.session import Acks, Session
from cdp.replay.shape import MAX_REQUEST_BYTES
from cdp.settings import Settings
from cdp.store.output_files import output_file
from cdp.store.volume_files import VolumeFiles
from cdp.trace.info import TraceInfo
from cdp.trace.reader import Trace
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, NotFound
from cdpcore.trace.driver import TargetDriver

MAX_VOLUMES = 64  # each open volume has its buffer pool
MIB = 1 << 20
_FIELD = "{disk}"


@dataclass(frozen=True)
class Place:
    """Where a device goes. need_bytes: the smallest disk that takes all its requests; None: not known."""

    device: str | None  # None: all requests of the trace
    index: int | None
    volume: str
    need_bytes: int | None


@dataclass
class Placed:
    """A volume under replay, and afterwards what the report says of it."""

    place: Place
    volume: Volume
    session: Session
    disk: Disk
    acks: Acks
    before_log_bytes: int = 0
    before_index_bytes: int = 0
    report: dict[str, Any] = field(default_factory=dict)


def place(template: str, trace: Trace, info: TraceInfo | None, wanted: tuple[str, ...]) -> list[Place]:
    """Devices to volumes. Raises InvalidRequest where devices would share a volume, are unknown, or are too many."""
    if info is None:
        if _FIELD in template or wanted:
            raise InvalidRequest(
                "a trace from a pipe is read once, so its devices are not known before",
                "store it in a file, or give a single volume",
            )
        return [Place(None, None, template, None)]
    names = [d.name for d in info.devices]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InvalidRequest(f"no device {unknown[0]!r} in the trace", f"it has: {', '.join(names[:20])}")
    chosen = [d for d in info.devices if d.records and (not wanted or d.name in wanted)]
    if not chosen:
        raise InvalidRequest("the trace has no records", "'cdp trace info' shows what is in it")
    if _FIELD not in template:
        if len(chosen) > 1:
            listed = ", ".join(d.name for d in sorted(chosen, key=lambda d: -d.records)[:8])
            raise InvalidRequest(
                f"the trace has {len(chosen)} devices ({listed}{', ...' if len(chosen) > 8 else ''})",
                "give each its volume with --volume DIR/{disk}, or choose one with --device NAME",
            )
        only = chosen[0]
        return [
            Place(
                None if len(names) == 1 else only.name,
                None if len(names) == 1 else names.index(only.name),
                template,
                only.size_bytes,
            )
        ]
    if len(chosen) > MAX_VOLUMES:
        raise InvalidRequest(
            f"the trace has {len(chosen)} devices: at most {MAX_VOLUMES} volumes at once",
            "choose some with --device NAME",
        )
    places = [Place(d.name, names.index(d.name), template.replace(_FIELD, _safe(d.name)), d.size_bytes) for d in chosen]
    if len({p.volume for p in places}) < len(places):
        raise InvalidRequest(
            "two devices of the trace have the same name as a file", "choose one of them with --device NAME"
        )
    return places


def _safe(name: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "disk"


def check_sizes(places: list[Place], *, create: bool, size: int | None, wrap: bool) -> dict[str, int]:
    """Volumes to create, with their sizes. Raises before anything is touched: NotFound, InvalidRequest."""
    from cdp.store.description import load
    from cdpcore.system.os import posix

    new: dict[str, int] = {}
    for p in places:
        files = VolumeFiles(p.volume)
        if os.path.exists(files.description):
            have = load(posix(), files).size_bytes
        elif os.path.lexists(p.volume):
            raise NotFound(f"{p.volume}: not a volume", "choose another name")
        elif not create:
            what = "" if p.need_bytes is None else f" of at least {p.need_bytes} bytes"
            raise NotFound(f"{p.volume}: no such volume", f"--create makes one{what}")
        else:
            if size is None and p.need_bytes is None:
                raise InvalidRequest("a trace from a pipe does not tell the size before it is read", "give --size")
            have = new[p.volume] = size or max(MIB, -(-(p.need_bytes or 0) // MIB) * MIB)
        if p.need_bytes is not None and p.need_bytes > have and not wrap:
            fits = -(-p.need_bytes // MIB)
            raise InvalidRequest(
                f"{p.volume} has {have} bytes, the trace{f' of {p.device}' if p.device else ''} reaches to byte "
                f"{p.need_bytes}",
                f"create one of {fits}MiB, or fold what is beyond with --wrap",
            )
    return new


@contextmanager
def opened(
    places: list[Place],
    trace: Trace,
    new: dict[str, int],
    *,
    settings: Settings,
    options: dict[str, Any],
    limit: int | None,
    wrap: bool,
    check_reads: bool,
    before: bool = False,
) -> Iterator[list[Placed]]:
    """Volumes open, with bookmarks, sessions and drivers made. On leaving they are closed and their sessions saved.
    `before`: those that are made protect an empty disk VOLUME.img in place."""
    with ExitStack() as stack:
        ready: list[Placed] = []
        for p in places:
            if p.volume in new:
                Path(p.volume).parent.mkdir(parents=True, exist_ok=True)
                if before:
                    disk = _empty_disk(f"{p.volume}.img", new[p.volume])
                    volume = cdp.create(p.volume, disk=disk, settings=settings)
                else:
                    volume = cdp.create(p.volume, size=new[p.volume], settings=settings)
            else:
                volume = cdp.open(p.volume, settings=settings)
            stack.callback(volume.close)
            ready.append(_prepare(stack, p, volume, trace, options, limit, wrap, check_reads))
        yield ready


def _empty_disk(path: str, size: int) -> str:
    try:
        with output_file(path) as real, open(real, "xb") as file:
            file.truncate(size)
    except FileExistsError:
        raise InvalidRequest(f"{path}: exists already",
                             "make the volume with 'cdp create --mode before', or remove the file") from None
    return path


def _prepare(
    stack: ExitStack,
    p: Place,
    volume: Volume,
    trace: Trace,
    options: dict[str, Any],
    limit: int | None,
    wrap: bool,
    check_reads: bool,
) -> Placed:
    key = secrets.randbits(32) | 1
    log, index = _stored(volume.path)
    start = volume.bookmark(f"replay-{key:08x}-start").made
    most = min(MAX_REQUEST_BYTES, (volume._core.max_request_bytes - 512) // 4096 * 4096)
    session = Session(
        volume.path,
        key,
        start.seq,
        [str(Path(s.path).absolute()) if s.path != "-" else "-" for s in trace.sources],
        options,
        p.device,
        limit,
        volume.size_bytes,
        most,
        wrap,
        trace.has_payload,
        all_short=volume._store.kind.splits_zeroes,
    )
    acks = Acks.create(volume.path)
    stack.callback(acks.close)
    session.save()
    driver = TargetDriver(volume.target(), key=key, max_bytes=most, pattern=not trace.has_payload, acks=acks.memory)
    driver.check_reads = check_reads and not trace.has_payload
    disk = Disk(p.device or volume.name, p.index, driver, session.shape(), volume._core.position)
    return Placed(p, volume, session, disk, acks, log, index)


def run(ready: list[Placed], replay: Replay, progress: Callable[[Outcome], None] | None) -> Outcome:
    """The replay itself, then a flush and a bookmark at its end. Failures of the disk are in the outcome."""
    outcome = replay.run(progress)
    began = time.monotonic_ns()
    for r in ready:
        r.volume.flush()
    outcome.elapsed_ns += time.monotonic_ns() - began  # a rate into memory would be no rate
    for r in ready:
        changes = r.disk.driver.changes
        end = r.volume.bookmark(f"{r.session.prefix}-end").at
        r.report = {
            "device": r.disk.name,
            "volume": r.volume.path,
            "size_bytes": r.volume.size_bytes,
            "key": f"{r.session.key:08x}",
            "changes": changes,
            "start_seq": r.session.start_seq,
            "end_seq": end.seq,
            "bookmarks": [f"{r.session.prefix}-start", f"{r.session.prefix}-end"],
            "times": _times(r.disk, outcome),
            "wrapped": r.disk.shape.wrapped,
            "split": r.disk.shape.split,
            "reads_checked_sectors": r.disk.driver.sectors_checked,
        }
    return outcome


def add_stored(ready: list[Placed]) -> None:
    """After closing: what log and index take now that they are sealed, and the sessions with their reports."""
    for r in ready:
        counts = r.disk.driver.counters()
        writes = sum(counts[kind]["count"] for kind in ("write", "trim", "zero"))
        log, index = _stored(r.volume.path)
        log, index = log - r.before_log_bytes, index - r.before_index_bytes
        r.report |= {
            "log_bytes": log,
            "index_bytes": index,
            "log_bytes_per_write": round(log / writes, 1) if writes else None,
            "index_bytes_per_write": round(index / writes, 1) if writes else None,
        }
        r.session.report = r.report
        r.session.save()


def _times(disk: Disk, outcome: Outcome, most: int = 64) -> list[dict[str, Any]]:
    """Trace times and their points, evenly thinned."""
    first, entries = outcome.first_ns or 0, disk.times
    step = max(1, -(-len(entries) // most))
    kept = entries[::step] + (entries[-1:] if entries and (len(entries) - 1) % step else [])
    return [
        {"trace_seconds": max(0, (trace_ns - first)) / 1e9, "trace_ns": trace_ns, "point": f"#{seq}", "ts_ns": ts_ns}
        for trace_ns, seq, ts_ns in kept
    ]


def _stored(volume: str) -> tuple[int, int]:
    """(log, index) bytes of the files of a volume."""

    def total(folder: str) -> int:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())

    files = VolumeFiles(volume)
    return total(files.log), total(files.runs)


def sessions_of(template: str) -> list[Session]:
    """The last replay into a volume, or into each volume of a DIR/{disk}. Raises NotFound."""
    if _FIELD not in template:
        return [sessions.load(template)]
    head, tail = template.split(_FIELD, 1)
    pattern = f"{os.path.basename(head)}*{tail}.replay.json"
    found = sorted(str(path)[: -len(".replay.json")] for path in Path(os.path.dirname(head) or ".").glob(pattern))
    if not found:
        raise NotFound(f"{template}: no replay is known there", "replay a trace into it first")
    return [sessions.load(path) for path in found]


def moment_of(volume: Volume, session: Session, changes: int) -> tuple[int, int]:
    """(seq, ts_ns) of the change with that number; of the moment before the first for 0."""
    done = 0
    if changes == 0:
        at = volume.resolve(session.start_seq)
        return at.seq, at.ts_ns
    for records in volume.iter_records(session.start_seq):
        mine = records[changes_content(records["kind"])]
        if done + len(mine) >= changes:
            row = mine[changes - done - 1]
            return int(row["seq"]), int(row["ts_ns"])
        done += len(mine)
    raise InvalidRequest(
        f"{volume.path} has {done} changes of the replay, {changes} were asked for", "the replay ended before that time"
    )


def changes_until(trace: Trace, session: Session, after_ns: int) -> int:
    """Changes of the session's disk that come before the first record later than `after_ns` after the trace's first."""
    from cdp.replay.shape import is_change

    shape = session.shape()
    first: int | None = None
    seen = changes = 0
    for records in trace:
        if session.limit is not None:
            records = records[: session.limit - seen]
        if not len(records):
            break
        seen += len(records)
        first = int(records["ts_ns"][0]) if first is None else first
        later = np.flatnonzero(records["ts_ns"] > np.uint64(first + after_ns))
        over = len(later) > 0
        if over:
            records = records[: later[0]]
        if session.device is not None:
            records = (
                records[records["device"] == trace.devices.index(session.device)]
                if session.device in trace.devices
                else records[:0]
            )
        changes += int(np.count_nonzero(is_change(shape.apply(records))))
        if over:
            break
    return changes

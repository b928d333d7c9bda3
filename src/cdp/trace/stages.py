"""Which stage of the block layer becomes records, device by device, and what that leaves out (blkparse, blktrace).

A request is several events: queued (Q), inserted (I), dispatched (D), completed (C). One of them becomes the record: D
where the device has any, else C, else Q, else I, or what the user says. Devices differ: dm, md, bcache and pmem have
no D.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cdp.trace.formats import STAGES, Format
from cdp.trace.model import RECORD
from cdp.trace.stream import TraceFile
from cdpcore.trace import parse as traceparse

NAMES = ("D", "C", "Q", "I")  # in order of preference, and as a census counts them
FEW = 2  # a stage with less than one in so many of another's requests, merged ones not counted, leaves some out


@dataclass
class Stages:
    """default: bits for devices without a choice of their own; chosen: (device's number, bits)."""

    default: int
    chosen: list[tuple[int, int]] = field(default_factory=list)

    def census(self) -> traceparse.DeviceTable:
        """A fresh table for one pass, with the choices in it."""
        table = traceparse.DeviceTable(census=True)
        for number, bits in self.chosen:
            table.choose(table.index(b"", number), bits)
        return table


@dataclass
class DeviceStages:
    """Events of one device by stage, and the stage whose events are records. What merging took is in no D or C."""

    device: str
    stage: str
    events: dict[str, int]
    merged: int
    passthrough: int  # commands without a place on the disk: events only

    @property
    def left_out(self) -> str:
        """Empty, or one line about requests that are not among the records."""
        have = self.events[self.stage]
        own = {name: count - (self.merged if name == "Q" else 0) for name, count in self.events.items()}
        other = max(NAMES, key=lambda name: own[name])
        if have * FEW >= own[other]:
            return ""
        return (f"device {self.device}: {have:,} requests of stage {self.stage} are read, stage {other} has "
                f"{self.events[other]:,} (--stage {other} reads them)")


def choose(files: Iterable[tuple[TraceFile, Format]]) -> Stages:
    """The choice for the files of one group, which are read through for it (of a pipe the head)."""
    census = traceparse.DeviceTable(census=True)
    for file, format in files:
        _count(file, format, census)
    chosen, total = [], [0] * len(NAMES)
    for i in range(len(census)):
        seen = census.seen(i)[: len(NAMES)]
        best = next((name for name, count in zip(NAMES, seen, strict=True) if count), "D")
        chosen.append((census.key(i)[1], STAGES[best]))
        total = [a + b for a, b in zip(total, seen, strict=True)]
    default = next((name for name, count in zip(NAMES, total, strict=True) if count), "D")
    return Stages(STAGES[default], chosen)


def _count(file: TraceFile, format: Format, census: traceparse.DeviceTable) -> None:
    """Counts the events of a file. Malformed places are left for the real pass to report."""
    parser: traceparse.TextParser | traceparse.BlktraceParser
    if format.shape == "text":
        parser = traceparse.TextParser(format.text, traceparse.DeviceTable(), skip_bad=True, census=census)
    else:
        parser = traceparse.BlktraceParser(traceparse.DeviceTable(), skip_bad=True, census=census)
    out, rest = np.empty(1, RECORD).view(np.uint8), b""
    for piece, final in file.scan():
        rest += piece
        _, used, _ = parser.run(rest, final, out)
        rest = rest[used:]


def summed(tables: Iterable[tuple[str, traceparse.DeviceTable, int]]) -> list[DeviceStages]:
    """Of (device name prefix and table and default bits) of each file: one entry a device, by name."""
    found: dict[str, DeviceStages] = {}
    names = {bits: name for name, bits in STAGES.items()}
    for prefix, table, default in tables:
        for i in range(len(table)):
            number, seen = table.key(i)[1], table.seen(i)
            if not any(seen):
                continue
            name = f"{prefix}{number >> 32},{number & 0xFFFFFFFF}"
            entry = found.setdefault(name, DeviceStages(name, names[table.stages(i) or default],
                                                        dict.fromkeys(NAMES, 0), 0, 0))
            for stage, count in zip(NAMES, seen, strict=False):
                entry.events[stage] += count
            entry.merged += seen[len(NAMES)]
            entry.passthrough += seen[len(NAMES) + 1]
    return [found[name] for name in sorted(found)]

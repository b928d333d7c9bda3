"""The formats that are known: names, clocks, how they are recognised, how a device of theirs is called.

Imports nothing heavy: the command line's help is made from this.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.trace.columns import Columns

Clock: TypeAlias = Literal["utc", "relative", "none"]
DeviceName = Callable[[bytes, int], str]
Shape = Literal["text", "fixed", "blktrace", "dmlog"]

SECTOR = 512

# Bits of block-layer actions, 1 << what, as blktrace numbers them.
STAGES = {"D": 1 << 7, "C": 1 << 8, "Q": 1 << 1, "I": 1 << 12}


def _number(name: bytes, number: int) -> str:
    return str(number)


def _name(name: bytes, number: int) -> str:
    return name.decode("utf-8", "backslashreplace")


def _host_disk(name: bytes, number: int) -> str:
    return f"{_name(name, number)}.{number}"


def _major_minor(name: bytes, number: int) -> str:
    return f"{number >> 32},{number & 0xFFFFFFFF}"


@dataclass(frozen=True)
class Format:
    """One format. `text`: its number in cdpcore.trace.parse. `device`: None where the file does not name devices."""

    name: str
    title: str
    shape: Shape
    clock: Clock
    device: DeviceName | None = None
    text: int = -1
    signatures: tuple[bytes, ...] = ()  # a text file that begins so is of this format
    probed: bool = True  # recognised by parsing the first lines
    needs_header: str = ""  # the line without which nothing in the file counts
    columnar: bool = False  # has a schema in cdp.trace.columnar
    staged: bool = False  # several events a request, one stage becomes records
    has_payload: bool = False
    unit_bytes: int = 1  # of offsets in the file, and of sizes
    size_in_bytes: bool = False  # whatever the unit of offsets
    by_many: bool = True  # written by many tools, some of which mistake bytes for sectors
    columns: Columns | None = None  # of a table that the user describes
    has_kind: bool = True  # oracleGeneral has no operation: the user says what its requests are

    def begins(self, head: bytes) -> bool:
        """Whether `head` starts with one of the signatures, tabs counting as commas."""
        return head[:64].replace(b"\t", b",").startswith(self.signatures)


_ALL = (
    Format("msr", "MSR Cambridge CSV", "text", "utc", _host_disk, 0, columnar=True),
    Format("systor", "SNIA SYSTOR'17 CSV", "text", "utc", _number, 1, (b"Timestamp,Response,IOType,",), columnar=True),
    Format("alibaba", "Alibaba 2020 CSV", "text", "utc", _number, 2, columnar=True),
    Format("tencent", "Tencent CBS CSV", "text", "utc", _number, 3, columnar=True, unit_bytes=SECTOR),
    Format("cloudphysics", "CloudPhysics CSV", "text", "relative", None, 4, (b"version,time,op,size,lbn",),
           probed=False, columnar=True, unit_bytes=SECTOR, size_in_bytes=True),
    Format("spc", "SPC, UMass", "text", "relative", _number, 5, unit_bytes=SECTOR, size_in_bytes=True),
    Format("cdp", "CSV written by cdp trace convert", "text", "relative", _name, 6,
           (b"utc_ns,device,", b"ts_ns,device,"), probed=False, needs_header="ts_ns,device,...", columnar=True),
    Format("fiu", "FIU IODedup text", "text", "relative", _major_minor, 7, unit_bytes=SECTOR),
    Format("disksim-ns", "DiskSim ASCII, time in ns (MQSim)", "text", "relative", _number, 8, unit_bytes=SECTOR),
    Format("disksim-ms", "DiskSim ASCII, time in ms", "text", "relative", _number, 9, unit_bytes=SECTOR),
    Format("replayer", "replayer (IODA, Heimdall): ms, disk, bytes, bytes, 1 = read", "text", "relative", _number, 13),
    Format("blkreplay", "blkreplay .load", "text", "relative", None, 10, probed=False, needs_header="start ; ...",
           unit_bytes=SECTOR),
    Format("fio", "fio iolog, version 2 or 3", "text", "relative", _name, 11, (b"fio version ",), probed=False),
    Format("blkparse", "blkparse text", "text", "relative", _major_minor, 12, staged=True,
           unit_bytes=SECTOR, by_many=False),
    Format("blktrace", "blktrace binary", "blktrace", "relative", _major_minor, staged=True),
    Format("vscsi-v1", "CloudPhysics vscsi, version 1", "fixed", "relative"),
    Format("vscsi-v2", "CloudPhysics vscsi, version 2", "fixed", "relative"),
    Format("oracle-general", "oracleGeneral (libCacheSim)", "fixed", "relative", has_kind=False),
    Format("dm-log-writes", "dm-log-writes, QEMU blklogwrites", "dmlog", "none", has_payload=True),
)
FORMATS: dict[str, Format] = {f.name: f for f in _ALL}
FAMILIES = {"disksim": ("disksim-ns", "disksim-ms"), "vscsi": ("vscsi-v1", "vscsi-v2"),
            "blklogwrites": ("dm-log-writes",)}


def candidates(name: str | None) -> tuple[Format, ...]:
    """The formats that `name` allows: all for None, several for a family. Raises InvalidRequest."""
    if name is None:
        return _ALL
    if name in FORMATS:
        return (FORMATS[name],)
    if name in FAMILIES:
        return tuple(FORMATS[n] for n in FAMILIES[name])
    raise InvalidRequest(f"no trace format {name!r}", f"known: {', '.join([*FORMATS, *FAMILIES])}")

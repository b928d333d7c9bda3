"""Whether the first records of a text trace make sense as what a format says they are.

A table of five numbers a line is DiskSim, replayer or Tencent's; they differ in what the numbers mean. Block traces
leave marks that tell them apart: bytes are multiples of 512, which sectors are only by chance, and a disk and its
requests have sizes that exist. Where the marks are missing nothing is guessed: the user says which with --format.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdp.trace.formats import SECTOR, Format
from cdp.trace.model import Records
from cdpcore.trace import parse as traceparse

_LARGE_REQUEST = 1 << 20  # bytes; the kernel makes none above 1,280 KiB by default
_LARGE_DISK = 1 << 43  # bytes
_SPREAD = 4  # largest request by smallest: a load with none below 256 KiB hardly has that
_UNIX_SECONDS = (10**9, 1 << 32)  # 2001 to 2106
_LAST_DEVICE = 1 << 16


@dataclass
class Reading:
    """The first lines as one format reads them. devices: its numbers; decimals: of the times."""

    format: Format
    records: Records
    devices: traceparse.DeviceTable
    decimals: bool

    @property
    def largest_request_bytes(self) -> int:
        return int(self.records["length_bytes"].max()) if len(self.records) else 0

    @property
    def disk_bytes(self) -> int:
        return int((self.records["offset_bytes"] + self.records["length_bytes"]).max()) if len(self.records) else 0

    @property
    def all_multiples_of_512(self) -> bool:
        """The file's own numbers, whatever their unit."""
        unit = np.uint64(self.format.unit_bytes)
        offset, size = self.records["offset_bytes"] // unit, self.records["length_bytes"] // unit
        if self.format.size_in_bytes:
            size = offset
        return not (offset % np.uint64(SECTOR)).any() and not (size % np.uint64(SECTOR)).any()

    def may_be_bytes(self) -> bool:
        """Whether what the format takes for sectors looks like bytes: a reason to ask, no proof. A copy with requests
        of 4 MiB looks so too."""
        if self.format.unit_bytes == 1 or not self.format.by_many or not self.all_multiples_of_512:
            return False
        large = not self.format.size_in_bytes and self.largest_request_bytes > _LARGE_REQUEST
        return large or self.disk_bytes > _LARGE_DISK

    def is_excluded(self) -> bool:
        """Whether this cannot be what such traces hold, where another format of the same shape fits too."""
        name = self.format.name
        if name in ("disksim-ns", "disksim-ms") and self.decimals != (name == "disksim-ms"):
            return True
        if name == "replayer":
            return not self.all_multiples_of_512  # it drives O_DIRECT
        if name == "tencent":
            seconds = self.records["ts_ns"] // np.uint64(10**9)
            return bool((seconds < _UNIX_SECONDS[0]).any() or (seconds >= _UNIX_SECONDS[1]).any())
        if name == "disksim-ns" and self._no_devices():
            return True
        return self.may_be_bytes() and (self.disk_bytes > _LARGE_DISK or self._wide_spread())

    def _wide_spread(self) -> bool:
        sizes = self.records["length_bytes"]
        sizes = sizes[sizes > 0]
        return len(sizes) > 0 and int(sizes.max()) >= _SPREAD * int(sizes.min())

    def _no_devices(self) -> bool:
        """Whether the numbers of devices are none: they count the disks of one machine."""
        return any(self.devices.key(i)[1] > _LAST_DEVICE for i in range(len(self.devices)))

    def __str__(self) -> str:
        return f"{self.format.name} ({self.largest_request_bytes} bytes at most a request, a disk of " \
               f"{self.disk_bytes} bytes)"

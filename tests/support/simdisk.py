"""What the tests of the simulated machine share: content that says which write it is from, and files."""
from __future__ import annotations

from cdpcore.base.errors import Unavailable
from cdpcore.system.os import File, Os, SimOs

SECTOR = 512
PAGE = 4096
MIB = 1 << 20


def stamp(length: int, salt: int) -> bytes:
    """Content in which every sector tells which write it is from."""
    return b"".join(bytes([salt]) * (SECTOR - 1) + bytes([i % 251]) for i in range(length // SECTOR))


def sectors(data: bytes) -> list[bytes]:
    return [data[i : i + SECTOR] for i in range(0, len(data), SECTOR)]


def tree(os: Os, path: str = "/") -> dict[str, bytes]:
    """Every file below a directory, with its content."""
    out: dict[str, bytes] = {}
    for name in os.list_dir(path):
        below = f"{path.rstrip('/')}/{name}"
        try:
            out[below] = os.read_file(below, limit_bytes=1 << 30)
        except Unavailable:
            out |= {below + "/": b""} | tree(os, below)
    return out


def durable_file(sim: SimOs, path: str, data: bytes) -> File:
    f = sim.open(path, write=True, create=True)
    f.pwrite(data, 0)
    f.datasync()
    sim.sync_dir("/")
    return f

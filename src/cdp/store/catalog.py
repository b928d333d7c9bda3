"""The catalog: what a volume consists of. LMDB, written at seal, merge, bookmark and restore, never per write.

Everything here can be rebuilt from the log (`cdp check --rebuild`); it is kept so that opening a volume does not have
to. A transaction is durable when it returns. Values are JSON: a few hundred bytes each, readable with any LMDB tool.

    segments  number (u64 big-endian) -> Segment
    runs      id (u64 big-endian) -> Run
    bookmarks name -> BookmarkRow
    restores  seq (u64 big-endian) -> RestoreRow
    writebacks seq (u64 big-endian) -> WritebackRow
    clock_steps seq (u64 big-endian) -> ClockStep
    punched   number (u64 big-endian) -> Punched

Threading: any thread; writers one after the other, beside readers.
"""
from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import lmdb

from cdp.moments.lineage import RestoreRecord
from cdp.moments.model import ClockStep
from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError, Corruption, OutOfSpace, Unavailable

MAP_BYTES = 64 << 20
"""First size of the LMDB map, doubled when it is full: about 200 bytes per segment and run, so 64 MiB lasts for 80
TB."""


AHEAD_BYTES = 256 << 10
"""So much of the file is allocated beyond what LMDB uses: the ten or so pages that a transaction changes then need no
space of a full device."""


@dataclass(frozen=True)
class Segment:
    number: int
    first_seq: int
    last_seq: int
    first_ts_ns: int
    last_ts_ns: int
    file_bytes: int


@dataclass(frozen=True)
class Run:
    id: int
    first_seq: int
    last_seq: int
    first_segment: int
    last_segment: int
    level: int
    file_bytes: int


@dataclass(frozen=True)
class BookmarkRow:
    name: str
    at_seq: int
    at_ts_ns: int
    made_seq: int
    made_ts_ns: int


@dataclass(frozen=True)
class RestoreRow:
    seq: int
    ts_ns: int
    target_seq: int
    target_ts_ns: int
    start: int
    end: int
    destructive: bool
    undo_of: int
    reclaimed: bool = False

    def in_lineage(self, done_seq: int = 0) -> RestoreRecord:
        """As cdp.moments.lineage takes it. done_seq: of before-images, the record from which on the disk holds it."""
        return RestoreRecord(self.seq, self.ts_ns, self.target_seq, self.start, self.end, self.destructive, done_seq)


@dataclass(frozen=True)
class WritebackRow:
    """Before-images: from record `seq` on, the disk holds what all restores up to `upto_seq` say."""

    seq: int
    upto_seq: int


@dataclass(frozen=True)
class Punched:
    """So many bytes of the segment `number` were freed by thinning."""

    number: int
    n_bytes: int


class Transaction(Protocol):
    """Changes that become durable together."""

    def put(self, row: Segment | Run | BookmarkRow | RestoreRow | WritebackRow | ClockStep | Punched) -> None: ...
    def remove(self, kind: type, key: int | str) -> None: ...


class Catalog(Protocol):
    """What the store needs of a catalog. LmdbCatalog is the one in use; the simulator has one on its own disk."""

    def rows(self, kind: type) -> list[Any]: ...
    def write(self) -> Any: ...
    def close(self) -> None: ...


TABLES: dict[type, bytes] = {Segment: b"segments", Run: b"runs", BookmarkRow: b"bookmarks", RestoreRow: b"restores",
                            WritebackRow: b"writebacks", ClockStep: b"clock_steps", Punched: b"punched"}


def key_of(kind: type, key: int | str) -> bytes:
    """Key bytes in LMDB order: numbers big-endian."""
    return key.encode() if isinstance(key, str) else key.to_bytes(8, "big")


def row_key(row: Any) -> int | str:
    if isinstance(row, (Segment, Punched)):
        return row.number
    if isinstance(row, Run):
        return row.id
    return row.name if isinstance(row, BookmarkRow) else row.seq


def value_of(row: Any) -> bytes:
    return json.dumps(asdict(row)).encode()


def row_of(kind: type, value: bytes) -> Any:
    """The row that value_of() wrote. Raises ValueError, TypeError where it is damaged."""
    return checked_json.made(kind, checked_json.parsed(value))


class LmdbCatalog:
    """VOLUME/catalog.lmdb. Raises Corruption where LMDB or a row can't be read."""

    def __init__(self, path: Path, create: bool = False, read_only: bool = False):
        self._path, self._read_only = path, read_only
        self._writing = threading.Lock()
        self._reading = threading.Condition()
        self._growing = False
        self._readers = 0           # in a transaction; the map may not be changed beside one
        if not create and not (path / "data.mdb").exists():
            raise Corruption(f"{path}: the catalog is missing", "run 'cdp check --rebuild' on the volume")
        if not read_only:
            _reserve_lock(path)
        try:
            # Without LMDB's own lock where nothing may be written: the volume's lock is held.
            self._env = lmdb.open(str(path), subdir=True, max_dbs=8, map_size=MAP_BYTES, sync=True, metasync=True,
                                  create=create, readonly=read_only, lock=not read_only)
            if not read_only and self._env.info()["map_size"] < MAP_BYTES:
                self._env.set_mapsize(MAP_BYTES)
            self._dbs = {}
            # New ones in one transaction: of each by itself LMDB would sync, which is most of what making an image
            # takes.
            with self._env.begin(write=True) if create else nullcontext() as txn:
                for kind, name in TABLES.items():
                    with suppress(lmdb.NotFoundError):      # of an older release: made with its first row
                        self._dbs[kind] = self._env.open_db(name, txn=txn, create=create)
            if create:      # LMDB syncs its file, but not the name
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            elif not read_only:     # a process that was killed may have left a transaction that shows, but is not
                self._env.sync(True)    # durable: what is done because of it would outlive it
            self._allocated_bytes = 0
            self._keep_ahead()
        except lmdb.Error as e:
            raise error_of(path, e) from None

    def rows(self, kind: type) -> list[Any]:
        """All rows of a kind, in key order."""
        with self._reading:
            while self._growing:    # or readers would keep it from growing for ever
                self._reading.wait()
            self._readers += 1
        try:
            if kind not in self._dbs:
                return []
            with self._env.begin(db=self._dbs[kind]) as txn:
                return [row_of(kind, value) for _, value in txn.cursor()]
        except (lmdb.Error, ValueError, TypeError) as e:
            raise error_of(self._path, e) from None
        finally:
            with self._reading:
                self._readers -= 1
                self._reading.notify_all()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction: durable when the block ends, or nothing of it. Retried with a larger map where it is full."""
        recorded = _Recorded()
        yield recorded
        with self._writing:
            while True:
                try:
                    dbs = dict(self._dbs)
                    with self._env.begin(write=True) as txn:
                        for kind, key, value in recorded.changes:
                            if kind not in dbs:
                                dbs[kind] = self._env.open_db(TABLES[kind], txn=txn)
                            if value is None:
                                txn.delete(key, db=dbs[kind])
                            else:
                                txn.put(key, value, db=dbs[kind])
                    self._dbs = dbs
                    self._keep_ahead()
                    return
                except lmdb.MapFullError:
                    self._grow()
                except lmdb.Error as e:
                    raise error_of(self._path, e) from None

    def _grow(self) -> None:
        """Double the map. No transaction of this process may be open meanwhile: writers are kept off by their lock,
        readers are waited for (they take microseconds) and kept off by theirs."""
        with self._reading:
            self._growing = True
            try:
                while self._readers:
                    self._reading.wait()
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            finally:
                self._growing = False
                self._reading.notify_all()

    def _keep_ahead(self) -> None:
        used = (int(self._env.info()["last_pgno"]) + 1) * int(self._env.stat()["psize"])
        if self._read_only or used + AHEAD_BYTES <= self._allocated_bytes or not hasattr(os, "posix_fallocate"):
            return
        # a device without space has no reserve here
        with suppress(OSError), open(self._path / "data.mdb", "r+b") as file:
            os.posix_fallocate(file.fileno(), used, 2 * AHEAD_BYTES)
            self._allocated_bytes = used + 2 * AHEAD_BYTES

    def close(self) -> None:
        self._env.close()


LOCK_BYTES = 8192       # of 126 readers


def _reserve_lock(path: Path) -> None:
    """LMDB maps its lock file and writes into it: where that has no blocks, and the device none to give, the process
    would get SIGBUS."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        path.mkdir(exist_ok=True)
        with open(path / "lock.mdb", "ab") as file:
            os.posix_fallocate(file.fileno(), 0, LOCK_BYTES)
    except OSError as e:
        raise error_of(path, e) from None


# What the system says, in LMDB's text alone, and what to do then. All else is a catalog that cannot be read.
_SYSTEM = ((("No space left", "Disk quota exceeded"), OutOfSpace, "free space on the device, then repeat"),
           (("Too many open files",), Unavailable, "raise the limit of open files (ulimit -n), then repeat"),
           (("Cannot allocate memory",), Unavailable, "free memory, then repeat"),
           (("Permission denied", "Operation not permitted", "Read-only file system"), Unavailable,
            "open it where, and as a user by whom, it can be written"))


def error_of(path: Path, error: Exception) -> CdpError:
    """What an error of LMDB, or of a row, means."""
    said = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
    for texts, kind, hint in _SYSTEM:
        if any(text in str(said) for text in texts):
            return kind(f"{path}: {said}", hint)
    return Corruption(f"{path}: {said}", "run 'cdp check --rebuild' on the volume")


class _Recorded:
    def __init__(self) -> None:
        self.changes: list[tuple[type, bytes, bytes | None]] = []

    def put(self, row: Any) -> None:
        self.changes.append((type(row), key_of(type(row), row_key(row)), value_of(row)))

    def remove(self, kind: type, key: int | str) -> None:
        self.changes.append((kind, key_of(kind, key), None))


CatalogFactory = Callable[[str, bool], Catalog]
"""(volume directory, create it) -> its catalog."""


def lmdb_catalog(directory: str, create: bool = False) -> Catalog:
    return LmdbCatalog(Path(VolumeFiles(directory).catalog), create)


def lmdb_catalog_to_read(directory: str, create: bool = False) -> Catalog:
    """Where nothing is written, not even a lock."""
    return LmdbCatalog(Path(VolumeFiles(directory).catalog), read_only=True)

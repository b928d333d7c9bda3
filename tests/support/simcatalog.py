"""The catalog's twin on a simulated disk: JSON in one file, written through Os.write_file, so a transaction is atomic
and durable as LMDB's is. Rows are the same frozen records; only where they are kept differs."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cdp.store import catalog as rows_of
from cdp.store import creation
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption
from cdpcore.system.os import Os, SimOs

KINDS = {kind.__name__: kind for kind in rows_of.TABLES}


class SimCatalog:
    """Args: os, and the volume's directory. Implements cdp.store.catalog.Catalog."""

    def __init__(self, os: Os, directory: str, create: bool = False):
        self._os, self._path = os, f"{directory}/catalog.json"
        if create:
            os.write_file(self._path, b"{}")
        self._tables: dict[str, dict[str, Any]] | None = None

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._tables is None:
            tables: dict[str, dict[str, Any]] = {name: {} for name in KINDS}
            if self._os.exists(self._path):
                self._os.sync_dir(self._path.rpartition("/")[0])    # as LmdbCatalog: what shows is durable
                tables.update(json.loads(self._os.read_file(self._path)))
            self._tables = tables
        return self._tables

    def rows(self, kind: type) -> list[Any]:
        """All rows of a kind, in key order."""
        table = self._load()[kind.__name__]
        return [kind(**table[key]) for key in sorted(table)]

    def geometry(self) -> Any:
        """The volume's geometry, for a catalog that keeps it."""
        found = self.rows(rows_of.Geometry)
        if not found:
            raise Corruption(f"{self._path}: the catalog is empty", "run 'cdp check --rebuild' on the volume")
        return found[0]

    @contextmanager
    def write(self) -> Iterator[Any]:
        """A transaction: durable when the block ends. Where that fails, what the disk has is looked up again."""
        tables = {name: dict(table) for name, table in self._load().items()}
        yield _Changes(tables)
        self._tables = None
        self._os.write_file(self._path, json.dumps(tables).encode())
        self._tables = tables

    def close(self) -> None:
        self._tables = None


class _Changes:
    def __init__(self, tables: dict[str, dict[str, Any]]):
        self._tables = tables

    def put(self, row: Any) -> None:
        self._tables[type(row).__name__][_key(rows_of.row_key(row))] = asdict(row)

    def remove(self, kind: type, key: int | str) -> None:
        self._tables[kind.__name__].pop(_key(key), None)


def _key(key: int | str) -> str:
    return key if isinstance(key, str) else f"{key:020d}"


def on(os: Os) -> Callable[..., SimCatalog]:
    """The catalog factory that cdp.store.store takes."""
    return lambda directory, create=False: SimCatalog(os, directory, create)


def simulated(sim: SimOs, kind: str, size_bytes: int, small: Tuning) -> Volume:
    """A new volume /v on the simulated machine, open: of after-images, or with `kind` "before" of the disk /disk."""
    disk = "/disk" if kind == "before" else ""
    if disk:
        with sim.open(disk, write=True, create=True) as file:
            file.pwrite(bytes(size_bytes), 0)
            file.datasync()
        sim.sync_dir("/")
    creation.create("/v", size_bytes, small, os=sim, catalog=on(sim), disk=disk)
    return Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))

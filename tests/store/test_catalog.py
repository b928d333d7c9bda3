"""The catalog: its map grows beside readers, its name is durable, and what it says is compared with the log."""
from __future__ import annotations

import dataclasses
import os
import stat
import threading
import time
from pathlib import Path

import lmdb
import pytest

import cdp
from cdp.check import check, rebuild
from cdp.store import catalog as catalogs
from cdp.store.catalog import TABLES, BookmarkRow, LmdbCatalog, RestoreRow, Segment, lmdb_catalog

MIB = 1 << 20


def test_the_map_grows_beside_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "MAP_BYTES", 64 << 10)
    (tmp_path / "c").mkdir()
    catalog = LmdbCatalog(tmp_path / "c", create=True)
    stop, errors, reads = threading.Event(), list[Exception](), [0]

    def read() -> None:
        while not stop.is_set():
            try:
                numbers = [row.number for row in catalog.rows(Segment)]
                assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) % 50 == 0
                reads[0] += 1
                time.sleep(0.001)       # it would have the GIL most of the time
            except Exception as e:  # noqa: BLE001  (told by the test)
                errors.append(e)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for first in range(1, 2_001, 50):
        with catalog.write() as txn:
            for number in range(first, first + 50):
                txn.put(Segment(number, number, number, number, number, 4096))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and reads[0]
    assert catalog._env.info()["map_size"] >= 4 * (64 << 10)
    assert len(catalog.rows(Segment)) == 2_000
    catalog.close()


def test_it_is_made_in_one_transaction(tmp_path: Path) -> None:
    """Each is synced, twice, and an image for each probe of a bisection has a catalog."""
    LmdbCatalog(tmp_path / "fresh", create=True).close()
    with lmdb.open(str(tmp_path / "fresh"), readonly=True, max_dbs=8) as env:
        assert env.info()["last_txnid"] == 1
        with env.begin() as txn:
            assert {bytes(name) for name, _ in txn.cursor()} == set(TABLES.values())


def test_its_name_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def record(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            synced.append(os.readlink(f"/proc/self/fd/{fd}") if os.path.isdir("/proc/self/fd") else "catalog.lmdb")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    cdp.create(tmp_path / "v", size=MIB).close()
    assert any(path.endswith("catalog.lmdb") for path in synced)


@pytest.mark.parametrize("wrong", ["bookmark gone", "bookmark moved", "bookmark made up", "restore gone",
                                   "restore moved", "restore made up", "time", "size"])
def test_compared_with_the_log(tmp_path: Path, wrong: str) -> None:
    """Whatever the catalog says wrongly is found, and mended by a rebuild; a sound one has no problem, also after
    freeing."""
    path = tmp_path / "v"
    with cdp.create(path, size=MIB) as volume:
        for i in range(4):
            volume.pwrite(bytes([i + 1]) * 4096, 0)
            volume.bookmark(f"b{i}")
        volume.bookmark("gone")
        volume.delete_bookmark("gone")
        volume.restore("b1")
        volume.undo()
        volume.pwrite(b"z" * 4096, 0)
        volume.restore("b3", destructive=True)
        volume.pwrite(b"y" * 4096, 0)
    assert check.check(path).problems == []
    catalog = lmdb_catalog(str(path))
    what, how = wrong.split() if wrong.count(" ") == 1 else (wrong.split()[0], "made up" if " " in wrong else "")
    bookmark, restore, segment = catalog.rows(BookmarkRow)[2], catalog.rows(RestoreRow)[0], catalog.rows(Segment)[0]
    with catalog.write() as txn:
        if how == "gone":
            txn.remove(BookmarkRow, bookmark.name) if what == "bookmark" else txn.remove(RestoreRow, restore.seq)
        elif how == "moved":
            txn.put(dataclasses.replace(bookmark, at_seq=1) if what == "bookmark"
                    else dataclasses.replace(restore, target_seq=1))
        elif how:
            txn.put(dataclasses.replace(bookmark, name="x") if what == "bookmark"
                    else dataclasses.replace(restore, seq=2))
        else:
            txn.put(dataclasses.replace(segment, **({"first_ts_ns": 1} if what == "time" else {"file_bytes": 8192})))
    catalog.close()
    problems = check.check(path).problems
    # its deletion may have been freed by the destructive restore: that cannot be told
    if wrong != "bookmark gone":
        assert len(problems) == 1 and "rebuild" in problems[0].hint, problems
    assert rebuild.rebuild(path).problems == []
    assert check.check(path).problems == []
    with cdp.open(path) as volume:
        assert {mark.name for mark in volume.bookmarks()} == {"b0", "b1", "b2", "b3"}
        assert check.check_open(volume).problems == []


def test_a_bookmark_that_is_missing(tmp_path: Path) -> None:
    with cdp.create(tmp_path / "v", size=MIB) as volume:
        volume.bookmark("here")
    catalog = lmdb_catalog(str(tmp_path / "v"))
    with catalog.write() as txn:
        txn.remove(BookmarkRow, "here")
    catalog.close()
    assert "lacks the bookmark 'here'" in check.check(tmp_path / "v").problems[0].what

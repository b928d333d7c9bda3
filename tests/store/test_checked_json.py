"""Files and rows whose checksum is right and whose fields are not: each is refused by its reader, with the file's name,
before any other code sees it."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import pytest

from cdp.moments.model import ClockStep
from cdp.store import catalog, checked_json, description, group_file, protected_disk, retention_file, scrub_file
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.once

FILES = VolumeFiles("/v")
UUID = "00" * 16
WRONG: list[Any] = [None, True, 1.5, "text", [1], {"a": 1}, -(1 << 63) - 1, 1 << 64]


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Outer:
    text: str
    flag: bool
    pair: tuple[int, str]
    many: tuple[Inner, ...]
    names: dict[str, int]
    list_of: list[str]
    perhaps: Inner | None = None


GOOD = {"text": "t", "flag": True, "pair": [1, "a"], "many": [{"n": 1}], "names": {"a": 1}, "list_of": ["x"]}


def test_arrays_become_tuples_and_objects_dataclasses() -> None:
    made = checked_json.made(Outer, {**GOOD, "perhaps": {"n": 2}})
    assert made == Outer("t", True, (1, "a"), (Inner(1),), {"a": 1}, ["x"], Inner(2))
    assert checked_json.made(Outer, json.loads(json.dumps(asdict(made)))) == made


@pytest.mark.parametrize("field, value", [
    ("text", 1), ("flag", 1), ("pair", [1]), ("pair", [1, "a", 2]), ("pair", ["a", 1]), ("pair", {}),
    ("many", [1]), ("many", [{}]), ("many", [{"n": True}]), ("many", {"n": 1}), ("names", []), ("names", {"a": "b"}),
    ("list_of", "x"), ("list_of", [1]), ("perhaps", 1), ("perhaps", {"n": 1, "m": 2}), ("unknown", 1),
    ("many", [{"n": 1 << 64}]),
])
def test_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        checked_json.made(Outer, {**GOOD, field: value})


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(TypeError):
        checked_json.made(Outer, {"text": "t"})


def packed(name: str, inner: Any, version: int | None) -> bytes:
    return checked_json.packed(name, inner, version)


FILES_OF = {
    "volume": (FILES.description, None, lambda os: description.load(os, FILES),
               description.Geometry(UUID, 1 << 20, 5, 1 << 20, "disk", format=6, disk="/d", start_seq=4)),
    "retention": (FILES.retention, 1, lambda os: retention_file.load(os, FILES), retention_file.Kept("keep")),
    "disk": (FILES.disk_description, None, lambda os: protected_disk.left(os, FILES),
             protected_disk.Stamp(1 << 20, 1, 2, 3, 4)),
    "group": ("/v/group.json", 1, lambda os: group_file.load(os, "/v"),
              group_file.Definition(UUID, 5, (group_file.Member("a", UUID),))),
}


@pytest.mark.parametrize("name", FILES_OF)
def test_no_field_of_another_type_gets_past_a_file(name: str) -> None:
    path, version, load, good = FILES_OF[name]
    os = SimOs(1)
    os.mkdir("/v")
    inner = asdict(good)
    os.write_file(path, packed(name, inner, version))
    assert load(os) == good
    for field in fields(good):
        for value in WRONG:
            if fits(value, inner[field.name]):
                continue
            os.write_file(path, packed(name, {**inner, field.name: value}, version))
            with pytest.raises(Corruption, match=path):
                load(os)


def fits(value: Any, good: Any) -> bool:
    """Whether a reader may take it in place of `good`: a list in place of a list may hold the right things."""
    return type(value) is type(good) and value not in (-(1 << 63) - 1, 1 << 64, {"a": 1}) or value == good \
        or isinstance(good, dict) and value == {"a": 1}


def test_a_scrub_that_is_damaged_begins_anew() -> None:
    os = SimOs(1)
    os.mkdir("/v")
    scrub_file.save(os, FILES, scrub_file.ScrubState(5, scrub_file.Place("runs", 2, 3)))
    assert scrub_file.load(os, FILES).place == scrub_file.Place("runs", 2, 3)
    inner = checked_json.unpacked(os.read_file(FILES.scrub), "scrub", 1)
    for field, value in (("item", "2"), ("part", "nothing"), ("problems", [[1, 2, 3]])):
        os.write_file(FILES.scrub, packed("scrub", {**inner, field: value}, 1))
        assert scrub_file.load(os, FILES) == scrub_file.ScrubState()


def test_what_is_nested_too_deeply_is_damaged() -> None:
    os = SimOs(1)
    os.mkdir("/v")
    deep = b"[" * 100_000
    for path, load in ((FILES.description, lambda: description.load(os, FILES)),
                       (FILES.retention, lambda: retention_file.load(os, FILES))):
        os.write_file(path, b'{"crc32c": "00", "volume": ' + deep)
        with pytest.raises(Corruption, match="nested too deeply"):
            load()
    with pytest.raises(ValueError, match="nested too deeply"):
        catalog.row_of(catalog.Run, deep)


ROWS = [catalog.Segment(1, 1, 2, 3, 4, 5), catalog.Run(1, 1, 2, 3, 4, 0, 6), catalog.BookmarkRow("b", 1, 2, 3, 4),
        catalog.RestoreRow(5, 6, 1, 2, 0, 8, False, 0), catalog.WritebackRow(1, 2), ClockStep(1, 3, 2),
        catalog.Punched(1, 2)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_no_row_of_the_catalog_has_a_field_of_another_type(row: Any) -> None:
    assert is_dataclass(row) and catalog.row_of(type(row), catalog.value_of(row)) == row
    for field in fields(row):
        for value in WRONG:
            if type(value) is not type(getattr(row, field.name)) or value in (-(1 << 63) - 1, 1 << 64):
                with pytest.raises((TypeError, ValueError)):
                    catalog.row_of(type(row), json.dumps({**asdict(row), field.name: value}).encode())



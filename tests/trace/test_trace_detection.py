"""Detection weighs what the numbers mean: a trace is recognised as what it is, or the user is asked; never read as
another."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp.trace import FORMATS, Kind, open_trace, samples
from cdp.trace.detect import Ambiguous, find
from cdp.trace.samples import GRAINS, Request
from cdpcore.base.errors import InvalidRequest

TEXT = [name for name in GRAINS if FORMATS[name].shape == "text"]
COMMAS = ("msr", "systor", "alibaba", "tencent", "cloudphysics", "spc", "cdp")
UNIX = 1_455_591_000 * 10**9  # of formats whose times are those of a clock

PLACES: dict[str, Callable[[int, random.Random], tuple[int, int]]] = {
    "512 B in order": lambda i, rng: (i * 512, 512),
    "4 KiB in order": lambda i, rng: (i << 12, 4 << 10),
    "1 MiB in order": lambda i, rng: (i << 20, 1 << 20),
    "4 MiB in order": lambda i, rng: (i << 22, 4 << 20),
    "a file system's": lambda i, rng: (rng.randrange(1 << 18) << 12, rng.randint(1, 16) << 12),
    "of a large disk": lambda i, rng: (rng.randrange(1 << 33) * 512, rng.randint(1, 255) * 512),
    "one place": lambda i, rng: (4096, 4096),
    "nothing": lambda i, rng: (0, 0),
}
STEPS_NS = {"at once": 0, "a ns apart": 1, "a us apart": 1000, "a ms apart": 10**6, "a s apart": 10**9,
            "at uneven times": 1_234_567}
KINDS = {"writes": [Kind.WRITE], "reads": [Kind.READ], "both": [Kind.WRITE, Kind.READ]}


def loads(name: str) -> Iterator[bytes]:
    """Files of one format with loads that have few marks: few requests, round numbers, no times to speak of."""
    grain, rng = GRAINS[name], random.Random(3)
    devices = samples.DEVICE_EXAMPLES[grain.devices]
    start = UNIX if FORMATS[name].clock == "utc" else 0
    for count, place, step, kinds in itertools.product((1, 2, 60), PLACES.values(), STEPS_NS.values(), KINDS.values()):
        requests = []
        for i in range(count):
            offset, length = place(i, rng)
            requests.append(Request((start + i * step) // grain.time_ns * grain.time_ns, devices[i % len(devices)],
                                    kinds[i % len(kinds)], offset, max(length, grain.min_length_bytes)))
        yield samples.encode(name, requests)


@pytest.mark.parametrize("name", TEXT)
def test_never_read_as_another(name: str) -> None:
    """Among all formats, which covers every pair of them; with tabs in place of commas too."""
    asked = recognised = 0
    for data in loads(name):
        for text in (data, data.replace(b",", b"\t")) if name in COMMAS else (data,):
            try:
                found = find(text, tuple(FORMATS.values()))
            except Ambiguous as error:
                assert name in error.message and "--format" in error.hint
                asked += 1
            else:
                assert found is not None and found.name == name, text[:200]
                recognised += 1
    assert recognised
    if name not in ("tencent", "disksim-ns", "disksim-ms", "replayer"):
        assert not asked  # no other has the shape


@pytest.mark.parametrize("name", TEXT)
def test_every_pair(name: str) -> None:
    """Each with each other alone, on a few loads: what is there first does not win."""
    for data in itertools.islice(loads(name), 0, None, 37):
        for other in (FORMATS[n] for n in TEXT if n != name):
            for pair in ((FORMATS[name], other), (other, FORMATS[name])):
                try:
                    found = find(data, pair)
                except Ambiguous:
                    continue
                assert found is not None and found.name == name, (other.name, data[:200])


def test_what_an_ordinary_load_is_needs_no_question() -> None:
    """Of the formats that share a shape: random requests as a file system or a database makes them."""
    for name in ("tencent", "disksim-ns", "disksim-ms", "replayer"):
        for seed in range(5):
            data = samples.encode(name, samples.random_requests(name, 60, seed))
            found = find(data.replace(b",", b"\t"), tuple(FORMATS.values()))
            assert found is not None and found.name == name


BYTES = [
    ("disksim-ns", "".join(f"{i * 1000} 0 {i * 4096} 4096 0\n" for i in range(100))),
    ("disksim-ns", "100 0 50331648 65536 1\n"),
    ("tencent", "".join(f"1538323200,{i << 20},8192,1,7\n" for i in range(50))),
    ("spc", "".join(f"0,{i << 30},4096,w,{i}.5\n" for i in range(50))),
    ("fiu", "".join(f"{i} 42 cp {i << 16} 4096 W 8 0 00ff\n" for i in range(50))),
    ("blkreplay", "start ; sector; length ; op\n" + "".join(f"{i}.0 ; {i << 16} ; 4096 ; W ; 0.0 ; 0.0\n"
                                                            for i in range(50))),
    ("cloudphysics", "version,time,op,size,lbn\n" + "".join(f"1,{i},2a,4096,{i << 30}\n" for i in range(50))),
]


@pytest.mark.parametrize(("name", "text"), BYTES)
def test_bytes_in_columns_of_sectors(name: str, text: str, tmp_path: Path) -> None:
    """A disk of terabytes, or requests of megabytes, from a small trace: said and asked, and read when answered."""
    (path := tmp_path / "t").write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        open_trace(path)
    assert str(path) in str(caught.value) and name in str(caught.value) and "--format" in caught.value.hint
    with open_trace(path, name) as trace:
        assert sum(map(len, trace)) == text.count("\n") - (name in ("blkreplay", "cloudphysics"))


def test_bytes_are_not_asked_about_without_a_reason(tmp_path: Path) -> None:
    for text in ("0 0 1024 2048 1\n5 0 2048 512 0\n8 0 2056 8 0\n",  # a request of 1 MiB
                 "1538323200,17179869184,8,1,7\n1538323201,17179869185,8,1,7\n"):  # 8 TiB and a sector that is no byte
        (tmp_path / "t").write_text(text)
        with open_trace(tmp_path / "t") as trace:
            assert sum(map(len, trace)) == text.count("\n")

"""Does verification see what it must? Volumes are filled by hand, from the definition of the content in Python, rightly
and wrongly."""

import dataclasses
import random

import numpy as np
import pytest
from support.replay_traces import fio, some

import cdp
from cdp.replay import session as sessions
from cdp.replay.content import content
from cdp.replay.session import Session
from cdp.replay.shape import Shape, is_change
from cdp.replay.verify import Pieces, verify
from cdp.trace.model import RECORD, Flag, Kind
from cdp.trace.reader import open_trace
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import check as replaycheck

pytestmark = pytest.mark.sanitize

SIZE = 4 << 20
KEY = 0xABCDEF01


def test_the_two_definitions_of_the_content_agree():
    rng = random.Random(5)
    for _ in range(200):
        offset, length = (
            rng.choice((0, rng.randrange(1 << 20), (1 << 56) + rng.randrange(4096))),
            rng.randrange(0, 3000),
        )
        key, change = rng.getrandbits(64), rng.randrange(1, 1 << 63)
        out = bytearray(length)
        replaycheck.fill(out, offset, key, change)
        assert out == content(offset, length, key, change)


def by_hand(volume, trace, alter=lambda k, data: data, skip=()):
    """Replay in plain Python. alter(k, data): what is written instead; skip: changes that are lost."""
    start = volume.bookmark("replay-test-start").made.seq
    k = 0
    for records in trace:
        for r in records:
            offset, length, kind = int(r["offset_bytes"]), int(r["length_bytes"]), Kind(r["kind"])
            k += kind in (Kind.WRITE, Kind.TRIM) and length > 0
            if kind == Kind.FLUSH:
                volume.flush()
            elif k in skip:
                continue
            elif kind == Kind.WRITE:
                volume.pwrite(alter(k, content(offset, length, KEY, k)), offset)
            elif kind == Kind.TRIM:
                volume.trim(length, offset)
    return Session(
        volume.path,
        KEY,
        start,
        [s.path for s in trace.sources],
        {},
        None,
        None,
        volume.size_bytes,
        8 << 20,
        False,
        False,
    )


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "v", size=SIZE) as volume:
        volume.pwrite(random.Random(1).randbytes(SIZE // 2), 0)  # what was there before counts too
        yield volume


@pytest.fixture
def trace(tmp_path):
    with open_trace([fio(tmp_path / "t.iolog", some(11, 400, SIZE))]) as trace:
        yield trace


def test_a_right_replay_is_right_at_every_moment(volume, trace):
    found = verify(volume, by_hand(volume, trace), trace, moments=100, all_flushes=True)
    assert found.ok, found.mismatches
    assert found.changes_in_trace == found.changes_in_volume > 250
    assert found.flush_moments == found.flush_moments_known > 10 and found.moments > 80


def test_a_wrong_byte_is_found_although_it_was_overwritten_later(volume, trace):
    def flip(k, data):
        return bytes([data[0] ^ 1]) + data[1:] if 100 <= k < 112 else data

    found = verify(volume, by_hand(volume, trace, flip), trace, moments=400, all_flushes=True)
    assert not found.ok
    assert "expected change 10" in found.mismatches[0] and "it holds something else" in found.mismatches[0]


def test_stale_content_is_named(volume, tmp_path):
    trace = open_trace([fio(tmp_path / "s.iolog", [("write", 4096, 4096)] * 5)])
    session = by_hand(volume, trace, lambda k, data: content(4096, 4096, KEY, 2) if k == 5 else data)
    found = verify(volume, session, trace)
    assert found.mismatch_count == 1
    assert found.mismatches[0].endswith("(after change 5), byte 4096: expected change 5; it holds change 2")


def test_a_lost_change_is_found(volume, trace):
    found = verify(volume, by_hand(volume, trace, skip={50}), trace)
    assert not found.ok and "asks for kind" in found.mismatches[0]


def test_changes_known_durable_must_be_there(volume, trace):
    session = by_hand(volume, trace, skip=range(200, 1000))
    with open(sessions.acks_path(volume.path), "wb") as acks:
        acks.write((300).to_bytes(8, "little") + (199).to_bytes(8, "little"))
    assert verify(volume, session, trace).ok
    with open(sessions.acks_path(volume.path), "wb") as acks:
        acks.write((300).to_bytes(8, "little") + (200).to_bytes(8, "little"))
    found = verify(volume, session, trace)
    assert found.mismatches == ["200 changes were acknowledged as durable, the volume has 199"]


def test_a_write_outside_the_footprint_is_found(volume, tmp_path):
    trace = open_trace([fio(tmp_path / "s.iolog", [("write", 4096, 4096)] * 3)])
    session = by_hand(volume, trace)
    assert verify(volume, session, trace).ok
    other = dataclasses.replace(session, start_seq=0)  # then what was there before is a change that the trace has not
    assert not verify(volume, other, trace).ok


def test_later_writes_by_others_are_not_the_replays(volume, trace):
    session = by_hand(volume, trace)
    volume.pwrite(b"x" * 4096, 0)
    assert verify(volume, session, trace).ok


def test_a_bounded_model_is_a_sample_and_says_so(volume, trace):
    session = by_hand(volume, trace)
    found = verify(volume, session, trace, max_pieces=150, moments=20)
    assert found.ok and found.share_modelled < 1 and found.bytes_compared > 0


def test_sampled_pieces_are_exactly_the_parts_in_the_chosen_zones():
    rng = np.random.default_rng(3)
    records = np.zeros(500, RECORD)
    records["offset_bytes"], records["length_bytes"] = rng.integers(0, 64 << 20, 500), rng.integers(1, 8 << 20, 500)
    records["kind"] = Kind.WRITE
    sampled = Pieces(100, 128 << 20)
    for at in range(0, 500, 50):
        sampled.add(records[at : at + 50], at + 1)
    kept = sampled.result()
    assert 0 < len(kept) <= 100
    zones = sorted(set((kept["start"] // np.uint64(1 << 20)).tolist()))
    assert len(zones) <= sampled.share * 128 < 128
    wanted = []
    for k, r in enumerate(records, 1):
        begin, end = int(r["offset_bytes"]), int(r["offset_bytes"] + r["length_bytes"])
        for z in zones:
            if begin < (z + 1) << 20 and end > z << 20:
                wanted.append((k, max(begin, z << 20), min(end, (z + 1) << 20)))
    assert list(zip(kept["change"].tolist(), kept["start"].tolist(), kept["end"].tolist(), strict=True)) == wanted


def test_a_sector_that_is_written_too_often_is_refused_not_held():
    records = np.zeros(1000, RECORD)
    records["length_bytes"], records["kind"] = 512, Kind.WRITE
    records["offset_bytes"] = 0
    with pytest.raises(InvalidRequest, match="one sector"):
        Pieces(100, 1 << 20).add(records, 1)


def test_shaping_splits_and_folds():
    records = np.zeros(4, RECORD)
    records["kind"] = [Kind.WRITE, Kind.READ, Kind.OTHER, Kind.FLUSH]
    records["offset_bytes"], records["length_bytes"] = [1000, 90_000, 5, 0], [25_000, 4096, 5, 0]
    records["flags"] = int(Flag.PREFLUSH | Flag.FUA)
    shape = Shape(64_000, 10_000, wrap=True)
    out = shape.apply(records)
    assert out["offset_bytes"].tolist() == [1000, 11_000, 21_000, 26_000, 0] and out["length_bytes"].tolist() == [
        10_000,
        10_000,
        5000,
        4096,
        0,
    ]
    assert out["flags"].tolist()[:3] == [3, 1, 1] and (shape.split, shape.wrapped, shape.unnamed) == (1, 1, 1)
    assert is_change(out).tolist() == [True, True, True, False, False]

"""What a tap notes: flushes that a client sent after a change, at their record; nothing else, however requests come."""
import socket
import threading

import pytest
from support import nbd

import cdp
from cdpcore.nbd.connection import Connection
from cdpcore.volume.flush_tap import Tap

pytestmark = pytest.mark.sanitize

FLUSH = nbd.request(nbd.FLUSH)


@pytest.fixture
def tapped(tmp_path):
    with cdp.create(tmp_path / "v", size=nbd.MIB) as volume:
        yield volume, Tap(volume.target(), volume._core)


@pytest.fixture
def wire(tapped):
    _, tap = tapped
    ours, theirs = socket.socketpair()
    connection = Connection(theirs, tap.capsule(), read_only=False, structured=True, own_fua=True)
    thread = threading.Thread(target=connection.serve, daemon=True)
    thread.start()
    with ours:
        yield nbd.Wire(ours, True)
    thread.join(nbd.DEADLINE_S)
    theirs.close()


def test_fua_is_no_flush_also_in_company(tapped, wire):
    volume, tap = tapped
    wire.send(*(nbd.write(i * 4096, b"f" * 4096, flags=nbd.FUA, cookie=i) for i in range(20)))
    assert [wire.reply().error for _ in range(20)] == [0] * 20
    assert tap.take() == [] and tap.counters()["flushes"] == 0 and tap.counters()["unflushed"] == 20
    assert {int(r["flags"]) for r in volume.records()} == {2} and len(volume.records()) == 20
    wire.ask(FLUSH)
    assert tap.take() == [20] and tap.take() == []


def test_a_flush_is_noted_at_its_record_and_only_after_a_change(tapped, wire):
    volume, tap = tapped
    wire.ask(FLUSH)
    assert tap.take() == []
    seqs = []
    for i in range(5):
        wire.ask(nbd.write(0, bytes([i]) * 512))
        wire.ask(nbd.request(nbd.TRIM, 4096, 512))
        wire.ask(FLUSH)
        seqs.append(volume.window().newest.seq)
        wire.ask(FLUSH)
    assert tap.take() == seqs
    for i, seq in enumerate(seqs):
        with volume.at(seq) as image:
            assert image.pread(512, 0) == bytes([i]) * 512
    assert tap.counters() == {"changes": 10, "changed_bytes": 5120, "unflushed": 0, "flushes": 11, "dropped": 0}
    assert wire.ask(nbd.request(nbd.READ, 0, 512), 512).data == b"\4" * 512


def test_notes_that_nobody_fetches_are_bounded(tapped, wire):
    _, tap = tapped
    for i in range(1100):
        wire.ask(nbd.write(0, bytes([i % 256]) * 512))
        wire.ask(FLUSH)
    notes = tap.take()
    assert len(notes) == 1024 and notes == sorted(notes) and tap.counters()["dropped"] == 76

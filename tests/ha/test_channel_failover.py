"""Exactly once over a failover: what was acknowledged and not in the log is done again, in order, and nothing twice."""
import threading

import pytest
from support.ha import SETTINGS, gate, remains
from support.nbd import DEADLINE_S, MIB, request, until, write

import cdp
from cdpcore.channel.executor import Left

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

FLUSH, TRIM, FUA = 3, 4, 1
SIZE = 4 * MIB


def seqs(volume):
    return [(int(r["seq"]), int(r["kind"]), int(r["offset"]), int(r["length"])) for r in volume.records()
            if r["kind"] != 4]


def last(volume):
    return volume.window().newest.seq


def put(g, number, at=None):
    assert g.wire.ask(write((number if at is None else at) * 4096, bytes([number]) * 4096)).error == 0


@pytest.fixture
def first(tmp_path):
    with cdp.create(tmp_path / "first", size=SIZE, settings=SETTINGS) as made:
        yield made


def test_acknowledged_and_not_written(first, tmp_path):
    with gate(SIZE) as g:
        with g.attached(first.target()):
            for n in range(1, 6):
                put(g, n)
            assert g.wire.ask(request(FLUSH)).error == 0
            for n in range(6, 11):
                put(g, n)
            put(g, 11, at=6)            # over an earlier one that is lost too
            assert g.wire.ask(request(TRIM, 7 * 4096, 4096)).error == 0
            path = remains(first, tmp_path / "second")
        with cdp.open(path, settings=SETTINGS) as second:
            assert last(second) == 6    # five writes and the flush: the others died with their process
            with g.attached(second.target(), last(second)):
                put(g, 12)
            assert seqs(second)[:12] == seqs(first), "each once, in the same order"
            assert [kind for _, kind, _, _ in seqs(second)] == [1] * 11 + [3] + [1]
            assert second.pread(SIZE, 0)[:12 * 4096] == first.pread(SIZE, 0)[:12 * 4096]


def test_what_the_log_has_is_not_done_again(first, tmp_path):
    with gate(SIZE) as g:
        with g.attached(first.target()):
            for n in range(1, 9):
                put(g, n)
            first.flush()
            path = remains(first, tmp_path / "second")
        with cdp.open(path, settings=SETTINGS) as second:
            before = seqs(second)
            assert len(before) == 8
            with g.attached(second.target(), last(second)):
                assert g.wire.ask(request(FLUSH)).error == 0
            assert seqs(second) == before


def test_begun_and_not_answered(first, tmp_path):
    """The owner dies between carrying out and answering: in the log, so it is answered; not in the log, so it is
    carried out."""
    for flushed in (True, False):
        with gate(SIZE) as g:
            executor = g.executor(first.target())       # never runs: it plays the one that died
            g.channel.replayed()
            g.wire.send(write(0, bytes([1]) * 4096, flags=FUA), write(4096, bytes([2]) * 4096))
            until(lambda g=g: g.channel.positions()["head"] == 2, "received")
            executor.redo(0)
            executor.redo(1)
            if flushed:
                first.flush()
            path = remains(first, tmp_path / f"second-{flushed}")
            executor.stop()
            with cdp.open(path, settings=SETTINGS) as second:
                known = len(seqs(second))
                with g.attached(second.target(), last(second)):
                    assert g.wire.reply().error == g.wire.reply().error == 0
                assert second.pread(8192, 0) == bytes([1]) * 4096 + bytes([2]) * 4096
                assert len(seqs(second)) == known + (0 if flushed else 2)


def test_a_second_failover_in_the_middle_of_the_replay(first, tmp_path):
    with gate(SIZE) as g:
        with g.attached(first.target()):
            for n in range(1, 5):
                put(g, n)
            assert g.wire.ask(request(FLUSH)).error == 0
            for n in range(5, 13):
                put(g, n, at=n % 3)     # over each other: the order shows
            path = remains(first, tmp_path / "second")
        with cdp.open(path, settings=SETTINGS) as second:
            with g.attached(second.target(), last(second), redo=3):
                second.flush()          # three of the eight are in the log now, and a flush
            path = remains(second, tmp_path / "third")
        with cdp.open(path, settings=SETTINGS) as third:
            assert len(seqs(third)) == 7
            with g.attached(third.target(), last(third)):
                put(g, 100)
            assert [(at, n) for _, _, at, n in seqs(third)][:12] == [(at, n) for _, _, at, n in seqs(first)]
            assert third.pread(64 * 1024, 0)[:12 * 4096] == first.pread(64 * 1024, 0)[:12 * 4096]


def test_nothing_is_let_go_while_it_is_replayed(first):
    with gate(SIZE) as g:
        with g.attached(first.target()):
            put(g, 1)
        g.executor(first.target())      # owns it, and has not replayed yet
        first.flush()
        g.wire.send(request(FLUSH))
        until(lambda: g.channel.positions()["head"] == 2, "received")
        assert g.channel.positions()["tail"] == 0


def test_a_fenced_owner_does_nothing_more(first, tmp_path):
    with cdp.create(tmp_path / "second", size=SIZE, settings=SETTINGS) as second, gate(SIZE) as g:
        old = g.executor(first.target())
        g.channel.replayed()
        with g.attached(second.target(), 0):        # the channel has a new owner; the old one wakes up after that
            left = []
            thread = threading.Thread(target=lambda: left.append(old.run()))
            thread.start()
            thread.join(10)
            assert left == [Left.DISOWNED]
            put(g, 3)
        assert last(first) == 0 and last(second) == 1


def test_an_owner_that_was_replaced_takes_no_ring(first, tmp_path):
    """The old owner sleeps, or wakes up, while the channel changes hands; the new one is rung for each request."""
    with cdp.create(tmp_path / "second", size=SIZE, settings=SETTINGS) as second:
        for n in range(100):
            with gate(SIZE) as g:
                old = g.executor(first.target())
                g.channel.replayed()
                thread = threading.Thread(target=old.run)
                if n % 2:
                    thread.start()
                with g.attached(second.target(), last(second)):
                    if not n % 2:
                        thread.start()
                    for number in range(3):
                        put(g, number)
                thread.join(DEADLINE_S)
                assert not thread.is_alive()
        assert last(first) == 0 and last(second) == 300


def test_an_error_was_an_answer(first, tmp_path):
    """A write that was refused is not replayed to the next owner."""
    with gate(2 * SIZE) as g:
        with g.attached(first.target()):
            assert g.wire.ask(write(SIZE, b"x" * 4096)).error == 22
            put(g, 1)
            path = remains(first, tmp_path / "second")
        with cdp.open(path, settings=SETTINGS) as second:
            executor = g.executor(second.target())
            assert [number for _, number in executor.lost(last(second))] == [1]


def test_what_was_acknowledged_is_taken_at_the_limit_of_the_history(first, tmp_path):
    with gate(SIZE) as g:
        with g.attached(first.target()):
            for n in range(1, 6):
                put(g, n)
            path = remains(first, tmp_path / "second")
        with cdp.open(path, settings=SETTINGS) as second:
            assert last(second) == 0
            second._core.admission.set(0, 0)
            with g.attached(second.target(), last(second)):
                assert g.wire.ask(write(0, b"x" * 4096)).error == 28
            assert seqs(second) == seqs(first) and second.stats()["limit_refused_writes"] == 1

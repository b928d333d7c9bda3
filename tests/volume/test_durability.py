"""What became of the writes that a moment shows: flushed by the client, on disk though it had not, only in memory."""
import pytest
from support.interop import world  # noqa: F401
from support.simcatalog import on, simulated
from support.sizes import KIB, tuning

import cdp
from cdp.nbd.client import Client
from cdp.volume.volume import Volume
from cdpcore.system.os import SimOs

MIB = 1 << 20


@pytest.mark.parametrize("kind", ["after", "before"])
def test_three_states(tmp_path, kind):
    settings = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB, commit_interval_ms=0)
    disk = None
    if kind == "before":
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(MIB))
    with cdp.create(tmp_path / "v", size=None if disk else MIB, disk=disk, settings=settings) as volume:
        assert volume.explain("#0").durability == volume.explain("now").durability == "flushed"
        volume.pwrite(b"1" * 4096, 0)
        assert volume.explain("now").durability == "memory" and not volume.explain("now").flush_durable
        volume.flush()
        assert volume.explain("#1").durability == "stored" and volume.explain("#2").durability == "flushed"
        volume.pwrite(b"2" * 4096, 0)
        volume.pwrite(b"3" * 4096, 4096)
        assert [volume.explain(f"#{seq}").durability for seq in (2, 3, 4)] == ["flushed", "memory", "memory"]
        volume.sync()
    with cdp.open(tmp_path / "v", settings=settings) as volume:
        assert [volume.explain(f"#{seq}").durability for seq in (2, 3, 4)] == ["flushed", "stored", "stored"]


@pytest.mark.parametrize("kind", ["after", "before"])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_in_memory_outlives_a_power_cut(kind, seed):
    """The word is kept: all that was said to be flushed or stored is there afterwards."""
    sim = SimOs(seed)
    small = tuning(128 * KIB, 1024 * KIB, slots=4)
    volume = simulated(sim, kind, 2048 * KIB, small)
    for number in range(1, 60):
        volume.pwrite(bytes([number]) * 4096, number % 7 * 4096)
        if (number * 7 + seed) % 11 == 0:
            volume.flush()
    newest = volume.window().newest.seq
    said = {seq: volume.explain(seq).durability for seq in range(newest + 1)}
    kept = max(seq for seq, word in said.items() if word != "memory")
    assert set(said.values()) == {"flushed", "stored", "memory"} or kept == newest
    images = {seq: volume.at(seq).pread(7 * 4096, 0) for seq in (kept, kept - 1)}
    del volume
    sim.power_on("drop")
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    assert volume.window().newest.seq >= kept
    for seq, content in images.items():
        assert volume.at(seq).pread(7 * 4096, 0) == content
    volume.close()


def test_in_words(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web", "--commit-interval-ms", "60s")

    def said(point):
        text = world.cdp("explain", point)
        return next(line.split(None, 1)[1] for line in text.splitlines() if line.strip().startswith("durable"))

    with Client(world.uri("web")) as client:
        client.pwrite(b"1" * 4096, 0)
        assert said("web@now") == "not yet: only in memory; the client had not flushed by then"
        client.pwrite(b"2" * 4096, 0)
        client.flush()
        client.pwrite(b"3" * 4096, 0)
        assert said("web@#1") == "yes: on disk, though the client had not flushed by then"
        assert said("web@#3") == "yes: all of it had been flushed"
        assert said("web@#4").startswith("not yet: only in memory; the client had not flushed since #3, ")
    world.stop()
    assert said("web@#4").startswith("yes: on disk, though the client had not flushed since #3, ")

"""A volume with a retention policy on a simulated machine, with its two clocks: time passes when the test says so."""
from __future__ import annotations

import pytest
from support.simcatalog import on
from support.sizes import KIB, tuning

from cdp.store import creation
from cdp.volume import policy_keeper
from cdp.volume.volume import Volume
from cdpcore.system.os import SimOs

NS = 10**9
T0 = 1795168800 * NS
TUNING = tuning(80 * KIB, 640 * KIB)


class Machine:
    """A volume on a simulated machine, with its two clocks. A record a second, a segment every ten."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: bool = False):
        self.sim, self.wall_ns, self.steady = SimOs(1), T0, ("boot 1", 5 * NS)
        monkeypatch.setattr(policy_keeper, "steady", lambda: self.steady)
        disk = "/disk" if before else ""
        if before:
            with self.sim.open(disk, write=True, create=True) as file:
                file.truncate(64 * KIB)
                file.datasync()
        self.go(0)
        creation.create("/v", 64 * KIB, TUNING, os=self.sim, catalog=on(self.sim), disk=disk)
        self.open()

    def open(self) -> None:
        self.volume = Volume("/v", _tuning=TUNING, _os=self.sim, _catalog=on(self.sim))
        self.keeper = self.volume.policy_keeper

    def reopen(self) -> None:
        self.volume.close()
        self.open()

    def go(self, ns: int) -> None:
        """Time passes."""
        self.set(ns)
        self.steady = (self.steady[0], self.steady[1] + ns)

    def set(self, by_ns: int) -> None:
        """The wall clock is set."""
        self.wall_ns += by_ns
        self.sim.set_clock(self.wall_ns, 0)

    def write(self, seconds: int) -> None:
        for _ in range(seconds):
            self.go(NS)
            self.keeper.upkeep()
            seq = self.volume.window().newest.seq + 1
            self.volume.pwrite(seq.to_bytes(8, "little") * 64, seq % 128 * 512, fua=True)
            if seq % 10 == 0:
                self.volume._store.core.set_aside()
                self.volume._store.step()

    def oldest(self) -> int:
        return self.volume.window().oldest.seq

    def check(self) -> None:
        """Every moment that can be opened shows what was written up to it."""
        window = self.volume.window()
        for seq in range(window.oldest.seq, window.newest.seq + 1):
            if seq and self.volume._store.timeline.moment(seq):
                with self.volume.at(seq) as image:
                    at = seq % 128 * 512
                    assert image.pread(512, at)[:8] == seq.to_bytes(8, "little"), f"#{seq}"

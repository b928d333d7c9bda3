"""Others change a protected disk, and it is adopted with its history, while the power goes at any call: every moment is
right, or is not known; and what the table of checksums says is what the disk holds, whenever it is looked at."""
from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from support.seeds import Seeds, notice
from support.simcatalog import on
from support.sizes import SIZES

from cdp.moments.records import FOREIGN
from cdp.store import creation, layout
from cdp.store import description as geometries
from cdp.store import protected_disk as disks
from cdp.store.volume_files import VolumeFiles
from cdp.volume.foreign_writes import compare, go_on
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, Corruption
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

BLOCK, SECTOR, DISK = 4096, 512, "/v.img"
CALLS = ("pwrite", "pwrite", "datasync", "allocate", "create", "sync_dir", "rename", "unlink", "truncate", "open",
         "pread", "size", "any")
PARTS = (None, None, "/log/", "/runs/", "catalog", DISK, "disk.state", "disk.json", "disk.sums", "disk.adopting",
         "volume.json")
MODES = ["seeded"] * 4 + ["drop", "keep", "killed", "killed"]


class Life:
    def __init__(self, seed: int, opened: Callable[[Volume], None] = lambda volume: None, faults: bool = False):
        self.faults = faults        # calls fail during the adoption, instead of cuts
        self.failed = 0
        self.random = random.Random(seed)
        self.sim = SimOs(seed)
        self.size = self.random.choice(SIZES)
        self.bytes = self.size.volume
        self.files = VolumeFiles("/v")
        self.catalog = on(self.sim)
        self.opened = opened
        self.cuts = self.refused = self.crashed = 0
        content = self.random.randbytes(self.bytes)
        with self.sim.open(DISK, write=True, create=True) as file:
            file.pwrite(content, 0)
            file.datasync()
        self.sim.sync_dir("/")
        creation.create("/v", self.bytes, self.size.tuning, os=self.sim, catalog=self.catalog, disk=DISK)
        self.moments = [content]
        self.flushed = 0

    def open(self) -> Volume:
        volume = Volume("/v", _tuning=self.size.tuning, _os=self.sim, _catalog=self.catalog)
        self.opened(volume)
        return volume

    def run(self) -> None:
        for _ in range(self.random.choice((1, 2))):
            self.use()
            self.others_write()
            self.adopt()
            self.look()

    # --- before -------------------------------------------------------------------------------------------------------

    def use(self) -> None:
        rnd, now = self.random, bytearray(self.moments[-1])
        volume = None
        crash = rnd.random() < 0.6
        try:
            volume = self.open()
            assert volume.pread(len(now), 0) == now
            n = rnd.choice((5, 30, 60))
            for i in range(n):
                if crash and i == n - 3:
                    self.sim.cut_at(rnd.randint(1, 40))
                at = rnd.randrange(len(now) // SECTOR) * SECTOR
                length = min(rnd.choice((SECTOR, BLOCK, 3 * BLOCK, 7 * SECTOR)), len(now) - at)
                data = rnd.randbytes(length)
                now[at:at + length] = data
                self.expect(volume, bytes(now))
                volume.pwrite(data, at)
                if rnd.random() < 0.15:
                    self.expect(volume, bytes(now))
                    volume.flush()
                    self.flushed = volume._core.position()[0]
            volume.close()
            self.flushed = len(self.moments) - 1 if not crash else self.flushed
            if crash:
                self.sim.cut_at(0)
        except CdpError:
            if self.sim.powered:
                raise
        self.power_on(volume)
        if crash and rnd.random() < 0.6:        # else it is adopted as the cut left it
            self.recover()

    def recover(self) -> None:
        volume = self.open()
        seq = volume._core.position()[0]
        assert self.flushed <= seq and volume.pread(self.bytes, 0) == self.moments[seq]
        volume.close()
        del self.moments[seq + 1:]
        self.flushed = seq

    def expect(self, volume: Volume, content: bytes) -> None:
        """The next record leaves that."""
        del self.moments[volume._core.position()[0] + 1:]
        self.moments.append(content)

    def power_on(self, volume: Volume | None) -> None:
        del volume
        if not self.sim.powered:
            self.crashed += 1
            self.sim.power_on(self.random.choice(MODES))
        self.sim.cut_at(None)

    # --- others, and the adoption -------------------------------------------------------------------------------------

    def others_write(self) -> None:
        rnd = self.random
        with self.sim.open(DISK, write=True) as file:
            if rnd.random() < 0.3:
                self.bytes += SECTOR * rnd.choice((1, 5, 8, 100))
                file.truncate(self.bytes)
                self.moments = [content.ljust(self.bytes, b"\0") for content in self.moments]
            for _ in range(rnd.choice((0, 1, 4))):
                at = rnd.randrange(self.bytes // SECTOR) * SECTOR
                data = rnd.randbytes(min(rnd.choice((SECTOR, BLOCK, 4 * BLOCK)), self.bytes - at))
                file.pwrite(data, at)
            file.datasync()
            self.now = file.pread(self.bytes, 0)

    def adopt(self) -> None:
        while self.faults:
            self.sim.fail(self.random.choice(CALLS), part=self.random.choice(PARTS), n=self.random.randint(1, 6),
                          times=self.random.choice((1, 1, 3)), error=self.random.choice((errno.EIO, errno.ENOSPC)))
            try:
                self.adopt_once()
                self.sim.clear_faults()
                return
            except (CdpError, MemoryError) as e:
                assert str(e) or isinstance(e, MemoryError)
                self.failed += 1
            self.sim.clear_faults()
            if self.sim.exists(self.files.disk_adopting):
                with pytest.raises(Corruption, match="adoption is not complete"):
                    self.open()
        while True:
            if self.random.random() < 0.7:
                self.sim.cut_at(self.random.randint(1, self.random.choice((8, 40, 120))))
            try:
                self.adopt_once()
                if self.sim.powered:
                    self.sim.cut_at(None)
                    return
            except CdpError:
                if self.sim.powered:
                    raise
            self.cuts += 1
            self.power_on(None)

    def adopt_once(self) -> None:
        sim, files = self.sim, self.files
        geometry = geometries.load(sim, files)
        held = layout.lock(sim, files)
        try:
            was = disks.left(sim, files)
            with disks.open_disk(sim, DISK, write=False) as file:
                now = disks.stamp(sim, DISK, file)
            catalog = self.catalog("/v", False)
            try:
                changed = compare(sim, files, geometry, catalog, now, was.size_bytes)
            finally:
                catalog.close()
        finally:
            held.close()
        assert changed is not None, "the table does not fit"
        go_on(sim, files, changed, self.size.tuning, self.catalog)

    # --- after --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """What nobody changed and nothing makes doubtful is right; the rest is right, or refused."""
        volume = self.open()
        try:
            assert volume.pread(self.bytes, 0) == self.now, "not the disk as it was adopted"
            wrong_sums(volume)
            rows = volume.records().tolist()
            mine = [r[0] for r in rows if r[2] == FOREIGN]
            named = {b for r in rows if r[2] == FOREIGN for b in range(r[4] // BLOCK, -(-(r[4] + r[5]) // BLOCK))}
            last = min((seq for seq in mine if seq > self.flushed), default=volume._core.position()[0] + 1) - 1
            assert last >= self.flushed, f"#{self.flushed} was flushed, the history ends at #{last}"
            for seq in sorted(self.random.sample(range(last + 1), min(10, last + 1))):
                with volume.at(seq) as image:
                    for at in range(0, self.bytes, BLOCK):
                        try:
                            got = image.pread(min(BLOCK, self.bytes - at), at)
                        except Corruption:
                            assert at // BLOCK in named
                            self.refused += 1
                            continue
                        assert got == self.moments[seq][at:at + BLOCK], f"#{seq}, byte {at}: another content"
            seq = volume._core.position()[0]
            del self.moments[last + 1:]
            while len(self.moments) <= seq:
                self.moments.append(self.now)
            self.flushed = seq
        finally:
            volume.close()


def wrong_sums(volume: Volume) -> None:
    """Nothing is on its way to the disk: what the table knows is what the disk holds."""
    sums = volume._store.kind.opened_content.sums
    wrong = [d for page in range(sums.stats()["n_pages"]) for d in sums.differences(page) if d[2]]
    assert not wrong, f"the table says otherwise of {wrong[:4]}"


def test_foreign_histories(seeds: Seeds) -> None:
    cuts = refused = crashed = 0
    for seed in seeds(8):
        life = Life(seed, wrong_sums)
        life.run()
        cuts, refused, crashed = cuts + life.cuts, refused + life.refused, crashed + life.crashed
    print(f"{seeds.done} histories, {crashed} ended by a cut, {cuts} cuts in an adoption, {refused} reads refused")
    assert seeds.done < 8 or (cuts and refused and crashed)


def test_calls_fail_while_a_disk_is_adopted(seeds: Seeds) -> None:
    """An error is clear, leaves a volume that is adopted by the next attempt, or that did not notice."""
    failed = refused = 0
    for seed in seeds(5):
        life = Life(seed, wrong_sums, faults=True)
        life.run()
        failed, refused = failed + life.failed, refused + life.refused
    print(f"{seeds.done} histories, {failed} adoptions failed, {refused} reads refused")
    assert seeds.done < 5 or (failed and refused)


@pytest.mark.planted
def test_a_table_that_is_ahead_of_the_disk_is_noticed() -> None:
    """Pages that are written before disk.state names the records that they are about."""
    def broken(volume: Volume) -> None:
        wrong_sums(volume)
        volume._store.kind.opened_content.settler.break_rule("sums")

    notice(lambda seed: Life(seed, broken).run(), 60)

"""The disk of an open before-image volume is moved, deleted, replaced or cut short: noticed within half a second,
nothing is acknowledged from then on, and no history is lost."""
import os
import re
import shutil
import subprocess
import time

import pytest
from support.interop import PATH, environ

import cdp
from cdp.check import check
from cdpcore.base.errors import CdpError, Corruption, NotFound, Unavailable

MIB = 1 << 20
SETTINGS = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)
NOTICED_S = 0.5 + 0.3       # and a busy machine


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").write_bytes(b"0" * 4 * MIB)
    cdp.create(tmp_path / "v", disk=tmp_path / "disk", settings=SETTINGS).close()
    return tmp_path / "disk"


def refused(volume, at_once=True):
    """Flushes, which are refused at once (also where there is nothing to do), and then writes, until those are too; the
    seconds that it took."""
    begin_s = time.monotonic()
    for call in (volume.flush, lambda: volume.pwrite(b"2" * 4096, 4 * MIB - 4096)):
        while True:
            try:
                call()
            except Unavailable as error:
                # a write reads the disk first
                assert re.search("moved or deleted|cut", str(error))
                break
            assert not (at_once and call == volume.flush) and time.monotonic() < begin_s + 10, "never refused"
            time.sleep(0.01)
    return time.monotonic() - begin_s


def another(path, size=4 * MIB):
    beside = path.with_name("beside")
    beside.write_bytes(b"x" * size)
    return beside


REPLACED = {
    "mv": lambda disk: disk.rename(disk.with_name("away")),
    "rm": lambda disk: disk.unlink(),
    "mv over it": lambda disk: another(disk).rename(disk),
    "cp --remove-destination": lambda disk: (another(disk), disk.unlink(),
                                             shutil.copyfile(disk.with_name("beside"), disk)),
    "mv away, another in": lambda disk: (disk.rename(disk.with_name("away")), another(disk).rename(disk)),
    "a link to another": lambda disk: (another(disk), disk.unlink(), disk.symlink_to("beside")),
    "a folder": lambda disk: (disk.unlink(), disk.mkdir()),
    "truncate": lambda disk: os.truncate(disk, MIB),
    "truncate to nothing": lambda disk: os.truncate(disk, 0),
    "cp of a shorter one": lambda disk: shutil.copyfile(another(disk, MIB), disk),
}


@pytest.mark.parametrize("how", REPLACED)
def test_no_flush_is_acknowledged_any_more(disk, how, caplog):
    with cdp.open(disk.with_name("v"), settings=SETTINGS) as volume:
        volume.pwrite(b"1" * 8192, 4096)
        volume.flush()
        REPLACED[how](disk)
        assert refused(volume) < NOTICED_S
        with pytest.raises(Unavailable, match=f"{disk}: the disk of this open volume was "):
            volume._store.check_folder()
    assert any(str(disk) in r.message and r.levelname == "ERROR" for r in caplog.records)
    with pytest.raises((Corruption, NotFound, CdpError)):     # it never takes another disk for its own
        cdp.open(disk.with_name("v"), settings=SETTINGS)


def test_it_goes_on_when_it_is_back(disk):
    with cdp.open(disk.with_name("v"), settings=SETTINGS) as volume:
        volume.pwrite(b"1" * 8192, 4096)
        disk.rename(disk.with_name("away"))
        refused(volume)
        disk.with_name("away").rename(disk)
        until_s = time.monotonic() + 10
        while True:
            try:
                volume.pwrite(b"2" * 4096, 0)
                break
            except Unavailable:
                assert time.monotonic() < until_s
                time.sleep(0.05)
        volume.flush()
    assert disk.read_bytes()[:12288] == b"2" * 4096 + b"1" * 8192
    assert check.check(disk.with_name("v")).ok


def test_history_is_there_when_it_is_put_back_after_the_close(disk):
    with cdp.open(disk.with_name("v"), settings=SETTINGS) as volume:
        volume.pwrite(b"1" * 8192, 4096)
        disk.rename(disk.with_name("away"))
        another(disk).rename(disk)
        refused(volume)
    disk.with_name("away").replace(disk)
    with cdp.open(disk.with_name("v"), settings=SETTINGS) as volume:
        assert volume.pread(8192, 4096) == b"1" * 8192
        with volume.at(0) as image:
            assert image.pread(8192, 4096) == b"0" * 8192


def test_a_truncated_one_stays_refused(disk):
    """Made as long again, it has lost what was there."""
    with cdp.open(disk.with_name("v"), settings=SETTINGS) as volume:
        os.truncate(disk, MIB)
        refused(volume)
        os.truncate(disk, 4 * MIB)
        time.sleep(NOTICED_S)
        with pytest.raises(Unavailable):
            volume.flush()
    with pytest.raises(Corruption):
        cdp.open(disk.with_name("v"), settings=SETTINGS)


def test_the_file_behind_a_loop_device(disk):
    def losetup(*args):
        return subprocess.run(["losetup", *args], capture_output=True, text=True, check=False,
                              env={**environ(), "PATH": PATH})

    done = losetup("--find", "--show", str(disk))
    if done.returncode:
        pytest.skip(f"losetup: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        with cdp.create(disk.with_name("w"), disk=device, settings=SETTINGS) as volume:
            with pytest.raises(cdp.Busy, match="another volume has"):
                cdp.open(disk.with_name("v"), settings=SETTINGS)
            volume.pwrite(b"1" * 4096, 0)
            disk.rename(disk.with_name("away"))
            assert refused(volume, at_once=False) < NOTICED_S
            disk.with_name("away").rename(disk)
        with cdp.open(disk.with_name("w"), settings=SETTINGS):
            pass
    finally:
        losetup("--detach", device)

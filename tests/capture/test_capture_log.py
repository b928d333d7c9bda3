"""Following a write log, entry by entry: what is taken and what is not yet, exactly once after any crash, and what is
refused."""
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.interop import PATH
from support.writelog import DISCARD, FLUSH, FUA, META, WriteLog, changes

import cdp
from cdp.capture import follow as following
from cdp.capture import position as positions
from cdp.capture.follow import Follower
from cdp.capture.lag import EVERY_NS, MAX_SEEN, Lag
from cdp.capture.log_entries import PIECE_BYTES, SLICE_BYTES
from cdp.capture.source import LogSource
from cdp.cli import cli, exits
from cdp.settings import Settings
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, OutOfSpace, RefusedPoint

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture
def log(tmp_path):
    return WriteLog(tmp_path / "w.log")


@pytest.fixture
def web(tmp_path):
    return made(tmp_path / "web")


def made(path):
    cdp.create(path, size=SIZE).close()
    return path


def take(web, log, stopping=lambda: False, once=True, save=True, **options):
    """Capture what there is; the status at the end. save=False: as after a kill -9, but for what the volume has."""
    kept = (web / "capture.json").read_bytes() if not save else b""
    with cdp.open(web) as volume, LogSource(str(log.path)) as source:
        follower = Follower(volume, source, settle_ns=0, stopping=stopping, **options)
        if once:
            follower.run(once=True, pause=lambda: False)
        else:
            while follower.step():
                pass
            follower.checkpoint()
        status = follower.status()
    if not save:
        (web / "capture.json").write_bytes(kept)
    return status


def fill(log, n, seed=1):
    """n random entries of every kind."""
    rng = random.Random(seed)
    for i in range(n):
        offset = rng.randrange(SIZE // 8192) * 4096
        match rng.randrange(8):
            case 0:
                log.flush()
            case 1:
                log.discard(offset, rng.choice([4096, 65536]))
            case 2:
                log.write(offset, rng.randbytes(4096), FUA)
            case 3:
                log.write(offset, rng.randbytes(8192), FLUSH | META)
            case 4:
                log.mark(f"step {i}")
            case _:
                log.write(offset, rng.randbytes(rng.choice([4096, 4096, 12288])))
    log.count()


def replayed(log):
    """The disk, by the format's definition."""
    disk, raw, at = bytearray(SIZE), log.path.read_bytes(), log.sector
    for _ in range(log.entries):
        sector, sectors, flags, _ = (int.from_bytes(raw[at + i:at + i + 8], "little") for i in (0, 8, 16, 24))
        at += log.sector
        start, length = sector * log.sector, sectors * log.sector
        if flags & DISCARD:
            disk[start:start + length] = bytes(length)
        elif length:
            disk[start:start + length] = raw[at:at + length]
            at += length
    return bytes(disk)


@pytest.mark.parametrize("sector", [512, 4096])
def test_every_kind_of_entry(web, tmp_path, sector):
    log = WriteLog(tmp_path / "w.log", sector)
    log.write(0, b"a" * 8192)
    log.flush()
    log.write(8192, b"b" * 4096, FUA)
    log.mark("mkfs done")
    log.write(4096, b"c" * 4096, FLUSH)
    log.discard(0, 4096)
    log.mark("mkfs done")
    log.write(MIB, b"d" * (5 * MIB), META)  # longer than a piece
    log.mark("now")
    log.count()
    status = take(web, log)
    assert (status.entries, status.behind_entries, status.behind_bytes) == (9, 0, 0) and status.position == log.at
    with cdp.open(web) as volume:
        assert changes(volume) == log.expected
        assert volume.pread(SIZE, 0) == replayed(log)
        assert [int(r["flags"]) for r in volume.records() if r["kind"] == 1] == [0, 2, 0, 32]  # FUA, metadata
        marks = {b.name: b.at for b in volume.bookmarks()}
        assert list(marks) == ["mkfs-done", "mkfs-done-2", "mark-now"]
        with volume.at("mkfs-done") as image:
            assert image.pread(12288, 0) == b"a" * 8192 + b"b" * 4096
        kinds = [(int(r["kind"]), int(r["offset"])) for r in volume.records() if r["kind"] not in (5, 7)]
        assert kinds[:3] == [(1, 0), (4, 0), (1, 8192)]  # the flush, where the log has it
        writes = [i for i, (kind, offset) in enumerate(kinds) if (kind, offset) == (1, 4096)]
        assert kinds[writes[0] - 1] == (4, 0)  # the preflush


def test_a_very_long_entry_is_taken_in_slices(web, log):
    data = os.urandom(MIB) * 40
    log.write(4096, data)
    log.write(0, b"x" * 512)
    log.count()
    assert len(data) > SLICE_BYTES > PIECE_BYTES
    assert take(web, log).entries == 2
    with cdp.open(web) as volume:
        assert volume.pread(len(data), 4096) == data
        assert [c[2] for c in changes(volume)] == [SLICE_BYTES, len(data) - SLICE_BYTES, 512]


def test_only_what_is_counted_and_there(web, log):
    """QEMU counts an entry before it writes it, and writes entries that it does not count yet."""
    log.write(0, b"1" * 4096)
    log.count()
    log.write(4096, b"2" * 4096)
    where, raw = log.write(8192, b"3" * 4096)
    log.write(12288, b"4" * 4096)
    log.put(where, bytes(len(raw)))  # counted, still on its way
    assert take(web, log, once=False).entries == 1
    log.count()
    status = take(web, log, once=False)
    assert status.entries == 2 and status.counted == 4 and "entry 3 is counted, but not written yet" in status.note
    with cdp.open(web) as volume:
        assert len(changes(volume)) == 2
    with pytest.raises(Corruption, match="entry 3 is counted"):
        take(web, log)
    log.put(where, raw)
    assert take(web, log).entries == 4
    where, raw = log.write(0, b"5" * 8192)
    log.count()
    os.truncate(log.path, log.at - 4096)
    status = take(web, log, once=False)
    assert status.entries == 4 and "data is not all there" in status.note
    log.put(where, raw)
    os.truncate(log.path, log.at)
    log.count(log.entries + 1)
    status = take(web, log, once=False)
    assert status.entries == 5 and "but the log ends" in status.note
    with cdp.open(web) as volume:
        assert changes(volume) == log.expected and volume.pread(SIZE, 0) == replayed(log)


def test_a_log_that_begins_later(web, log):
    assert take(web, log, once=False).note == "the log has not begun"
    with pytest.raises(InvalidRequest, match="empty"):
        take(web, log)
    log.put(0, bytes(4096))
    assert take(web, log, once=False).note == "the log has not begun"
    fill(log, 5)
    assert take(web, log).entries == 5


@pytest.mark.soak
def test_each_entry_once_wherever_it_was_killed(tmp_path, seeds, monkeypatch):
    """Stopped at random places; of the position only an older one is left, as a kill -9 leaves it."""
    monkeypatch.setattr(following, "SLICE_NS", 1)  # a record at a time
    for seed in seeds(2):
        each_entry_once(made(tmp_path / f"web{seed}"), WriteLog(tmp_path / f"{seed}.log"), seed)


def each_entry_once(web, log, seed):
    rng = random.Random(seed)
    log.count()
    take(web, log)  # the position is written before the first entry is taken
    for part in range(6):
        fill(log, 60, seed * 10 + part)
        left = [rng.randrange(1, 150)]

        def stopping(left=left):
            left[0] -= 1
            return left[0] < 0

        take(web, log, stopping, save=rng.random() < 0.3)
    take(web, log)
    with cdp.open(web) as volume:
        assert changes(volume) == log.expected and volume.pread(SIZE, 0) == replayed(log)
        seqs = [int(r["seq"]) for r in volume.records() if r["kind"] <= 3]
        before = [(b.name, sum(seq <= b.at.seq for seq in seqs)) for b in volume.bookmarks()]
        assert sorted(("-".join(name.split("-")[:2]), n)
                      for name, n in before) == sorted((m.replace(" ", "-"), n) for m, n in log.marks)
    assert take(web, log).entries == log.entries


def test_killed_inside_a_long_entry(tmp_path, log):
    """A small volume's records are short: one entry becomes several, and some of them were durable."""
    web = tmp_path / "small"
    cdp.create(web, size=SIZE, settings=Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)).close()
    log.write(0, b"0" * 4096)
    log.count()
    take(web, log)
    log.write(8192, os.urandom(5 * MIB), FUA)
    log.discard(0, 4096)
    log.count()
    with cdp.open(web) as volume:
        step = volume._core.max_request_bytes
        data = log.path.read_bytes()[-512 - 5 * MIB:-512]
        assert step <= 2 * MIB
        for at in range(0, 2 * step, step):
            volume.pwrite(data[at:at + step], 8192 + at, fua=True)
    assert take(web, log).entries == 3
    with cdp.open(web) as volume:
        assert sum(c[2] for c in changes(volume)) == sum(c[2] for c in log.expected)
        assert volume.pread(SIZE, 0) == replayed(log)


def test_a_late_writer_is_found_out(web, log, monkeypatch):
    monkeypatch.setattr(following, "LATE_NS", 0)
    fill(log, 3)
    where, raw = log.write(0, b"w" * 4096)
    log.count()
    with cdp.open(web) as volume, LogSource(str(log.path)) as source:
        follower = Follower(volume, source, settle_ns=0)
        log.put(where + 512, b"half" * 32)
        assert follower.step()
        log.put(where, raw)
        with pytest.raises(Corruption, match=r"changed after they were taken; .*--settle|changed after"):
            follower.step()
    monkeypatch.setattr(following, "LATE_NS", 1 << 60)
    other = web.parent / "other"
    cdp.create(other, size=SIZE).close()
    take(other, log)  # what is not compared any more is so at the next start
    log.put(where + 700, b"late")
    with pytest.raises(RefusedPoint, match="not the log"):
        take(other, log)


def test_another_log_is_refused(web, log, tmp_path):
    fill(log, 40)
    take(web, log)
    kept = log.path.read_bytes()
    again = WriteLog(tmp_path / "w.log")
    fill(again, 3, seed=7)
    with pytest.raises(RefusedPoint, match="begun anew: it counts 3 entries") as refused:
        take(web, again)
    assert "--new-log" in refused.value.hint
    fill(again, 60, seed=8)
    with pytest.raises(RefusedPoint, match="not the log that this volume took 40 entries of"):
        take(web, again)
    with cdp.open(web) as volume:
        before = changes(volume)
        assert before == log.expected
    assert take(web, again, new_log=True).entries == 63  # told that it goes on where the volume is
    assert take(web, again, new_log=True).entries == 63  # and it does so once
    assert take(web, again).entries == 63
    with cdp.open(web) as volume:
        assert changes(volume) == before + again.expected
    log.path.write_bytes(kept)
    with pytest.raises(RefusedPoint, match="begun anew|not the log"):
        take(web, log)


def test_a_log_that_goes_while_it_is_followed(web, log, tmp_path):
    fill(log, 20)

    def running(meanwhile):
        with cdp.open(web) as volume, LogSource(str(log.path)) as source:
            follower = Follower(volume, source, settle_ns=0)
            follower.step()
            meanwhile()
            follower.run(once=False, pause=lambda: False)

    with pytest.raises(RefusedPoint, match="was removed; 20 of the 20 entries"):
        running(log.path.unlink)
    log = WriteLog(tmp_path / "w.log")
    fill(log, 20)
    shutil.copy(log.path, tmp_path / "copy")
    with pytest.raises(RefusedPoint, match="was replaced by another one; 20 of the 20"):
        running(lambda: os.replace(tmp_path / "copy", log.path))
    with pytest.raises(RefusedPoint, match="begun anew, or cut"):
        running(lambda: os.truncate(log.path, 700))
    log = WriteLog(tmp_path / "w.log")
    fill(log, 20)
    with pytest.raises(RefusedPoint, match="begun anew: it has no super block"):
        running(lambda: log.put(0, bytes(512)))
    with cdp.open(web) as volume:
        assert changes(volume) == log.expected


@pytest.mark.parametrize("change, error, text", [
    (lambda log: log.put(0, b"not a log"), InvalidRequest, "byte 0: expected the magic"),
    (lambda log: log.put(8, b"\x02"), InvalidRequest, "expected version 1"),
    (lambda log: log.put(24, b"\x01\x01"), InvalidRequest, "expected a sector size"),
    (lambda log: log.put(512 + 16, b"\xff"), Corruption, "entry 1 at byte 512: expected an entry: flags below 32"),
    (lambda log: log.path.unlink(), NotFound, "no such log"),
    (lambda log: (log.path.unlink(), log.path.mkdir()), InvalidRequest, "neither a file nor a block device"),
    (lambda log: os.truncate(log.path, log.at - 512), Corruption, "entry 10 is counted, but its data is not all there"),
])
def test_what_is_no_log_or_damaged(web, log, change, error, text):
    fill(log, 9)
    log.write(0, b"z" * 1024)
    log.count()
    change(log)
    with pytest.raises(error, match=text) as raised:
        take(web, log)
    assert raised.value.hint


def test_a_volume_that_is_too_small(web, log):
    log.write(0, b"a" * 4096)
    log.write(SIZE - 512, b"b" * 1024)
    log.count()
    with pytest.raises(InvalidRequest, match=f"entry 2 reaches to byte {SIZE + 512}, but .*web has {SIZE}"):
        take(web, log)
    with cdp.open(web) as volume:
        assert changes(volume) == log.expected[:1]
    assert positions.load(str(web)).place.entries == 1


def test_a_volume_that_somebody_else_changed(web, log):
    fill(log, 10)
    take(web, log)
    with cdp.open(web) as volume:
        volume.bookmark("mine")  # which changes nothing
    fill(log, 10, seed=2)
    assert take(web, log).entries == 20
    with cdp.open(web) as volume:
        volume.pwrite(b"x" * 512, 512)
    for new_log in (False, True):
        with pytest.raises(RefusedPoint, match="changes 512 bytes at 512, but .* has nothing more behind entry 20"):
            take(web, log, new_log=new_log)
    with cdp.open(web) as volume:
        volume.restore("mine")
    (web / "capture.json").rename(web / "kept")
    shutil.copy(web / "kept", web / "capture.json")
    with pytest.raises(RefusedPoint, match=r"changes 512 bytes|restored by #"):
        take(web, log)
    raw = bytearray((web / "capture.json").read_bytes())
    raw[20] ^= 1
    (web / "capture.json").write_bytes(raw)
    with pytest.raises(Corruption, match=r"capture.json: damaged"):
        take(web, log)


def test_a_full_device_loses_nothing(log, tmp_path):
    """A real one: a file system in memory, made larger afterwards."""
    small = tmp_path / "small"
    small.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", small], check=True, capture_output=True,
                       env={"PATH": PATH})
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount: {error}")
    try:
        web = small / "web"
        settings = Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)
        cdp.create(web, size=SIZE, settings=settings).close()
        rng = random.Random(3)
        for _ in range(100):
            log.write(rng.randrange(SIZE // MIB) * MIB, rng.randbytes(MIB))
        log.count()
        with pytest.raises(OutOfSpace) as raised:
            take(web, log)
        assert "nothing is lost: free space, then start the capture again" in raised.value.hint
        with cdp.open(web) as volume:
            there = changes(volume)
            assert there == log.expected[:len(there)] and 20 < len(there) < 100
        subprocess.run(["mount", "-o", "remount,size=256m", small], check=True, env={"PATH": PATH})
        assert take(web, log).entries == 100
        with cdp.open(web) as volume:
            assert changes(volume) == log.expected and volume.pread(SIZE, 0) == replayed(log)
    finally:
        subprocess.run(["umount", small], check=True, env={"PATH": PATH})


def test_lag_is_exact_and_bounded():
    lag = Lag(1_000_000_000)
    for i in range(20_000):
        lag.observe(i * EVERY_NS, i)
    assert len(lag._seen) <= MAX_SEEN + 1
    now = 20_000 * EVERY_NS
    # Half of the observations or more are gone: never too much, never older than it is by more than the coarser step.
    assert 0 <= now - 1_000_000_000 - lag.settled(now) * EVERY_NS <= 32 * EVERY_NS
    assert 0 <= lag.behind_ns(now, 10_000) - (now - 10_001 * EVERY_NS) + 32 * EVERY_NS <= 64 * EVERY_NS
    assert lag.behind_ns(now, 20_000) == 0
    lag.forget(15_000)
    assert lag._seen[0][1] <= 15_000 < lag._seen[1][1]


def test_a_log_on_a_block_device(web, tmp_path):
    """Read past the page cache; how far it has been written is not known."""
    backing = tmp_path / "backing"
    backing.touch()
    os.truncate(backing, 8 * MIB)
    try:
        made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True, check=True,
                              env={"PATH": PATH})
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {error}")
    device = Path(made.stdout.strip())
    try:
        log = WriteLog(device)
        fill(log, 50)
        status = take(web, log)
        assert (status.entries, status.behind_entries, status.behind_bytes) == (50, 0, None)
        fill(log, 50, seed=2)
        assert take(web, log).entries == 100
        with cdp.open(web) as volume:
            assert changes(volume) == log.expected and volume.pread(SIZE, 0) == replayed(log)
    finally:
        subprocess.run(["losetup", "-d", device], check=True, env={"PATH": PATH})


def command(*args):
    return CliRunner().invoke(cli, ["capture", *map(str, args)], prog_name="cdp")


def test_the_command(web, log, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    fill(log, 30)
    done = command(web, "--log", log.path, "--once", "--settle", "10ms", "--json")
    assert done.exit_code == 0, done.stderr
    view = json.loads(done.stdout)
    assert (view["kind"], view["entries"], view["behind_entries"], view["running"]) == ("log", 30, 0, False)
    fill(log, 5, seed=3)
    later = json.loads(command(web, "--status", "--json").stdout)  # nothing runs: how far behind it would begin
    assert (later["entries"], later["behind_entries"]) == (30, 5)
    assert later["behind_bytes"] == log.at - view["log_bytes"]
    assert "behind by 5 entries" in command(web, "--status").stdout
    info = CliRunner().invoke(cli, ["info", str(web)], prog_name="cdp").stdout
    assert f"captures   {log.path}: 30 entries" in info


@pytest.mark.parametrize("args, status, text", [
    (["web"], exits.USAGE, "no source given; give one of --log FILE, --mirror and --status"),
    (["web", "--mirror", "--log", "w.log"], exits.USAGE, "--log and --mirror given; give one of"),
    (["web", "--mirror", "--once"], exits.USAGE, "about a log; give it"),
    (["web", "--log", "w.log", "--settle", "soon"], exits.USAGE, "settle"),
    (["web@now", "--mirror"], exits.USAGE, "takes a volume, not a point"),
    (["web/img", "--mirror"], exits.USAGE, "is an image; capture into a volume"),
    (["web", "--status"], exits.NOT_FOUND, "nothing was captured into it; 'cdp capture web --log FILE' begins"),
    (["web", "--log", "none"], exits.NOT_FOUND, "no such log; make it first"),
    (["none", "--log", "w.log"], exits.NOT_FOUND, "no such volume"),
    (["web", "--log", "text"], exits.USAGE, "not a write log: byte 0"),
    (["web", "--log", "w.log", "--once"], exits.USAGE, "empty: there is no super block in it"),
])
def test_what_the_command_refuses(web, log, tmp_path, monkeypatch, args, status, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "text").write_text("no log, but text that is long enough\n")
    with cdp.open(web) as volume:
        volume.create_image("img")
    done = command(*args)
    lines = [line for line in done.stderr.splitlines() if line != "cdp: ready"]
    assert done.exit_code == status and lines[-1].startswith("cdp: error: ") and text in lines[-1], done.stderr
    with cdp.open(web) as volume:
        assert volume.window().newest.seq == 0

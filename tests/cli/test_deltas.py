"""export --since and import --delta: copies that are what their source was, and refusals of what does not belong."""
import io
import json
import random
import subprocess
import sys

import pytest

import cdp
from cdp.cli import delta, exits
from cdp.cli.delta_file import DeltaReader
from cdp.service.local import VolumeService
from cdpcore.base.errors import Corruption, InvalidRequest

CLI = [sys.executable, "-m", "cdp"]
SIZE = 4 << 20


def run(*args, status=exits.OK, **more):
    result = subprocess.run([*CLI, *map(str, args)], check=False, capture_output=True, timeout=120,
                            **{"stdin": subprocess.DEVNULL, **more})
    assert result.returncode == status, result
    return result


def change(volume, rnd, times=12):
    for _ in range(times):
        offset = rnd.randrange(SIZE // 512) * 512
        n = min(SIZE - offset, 512 * rnd.choice((1, 8, 8, 100, 4000)))
        what = rnd.random()
        if what < 0.6:
            volume.pwrite(rnd.randbytes(n), offset)
        elif what < 0.9:
            (volume.trim if what < 0.75 else volume.zero)(n, offset)
        elif rnd.random() < 0.5:
            volume.restore(rnd.randrange(volume.window().newest.seq + 1))


def exported(volume, since, at):
    service = VolumeService(volume)
    first = service.explain(f"#{since}")["resolved"] if since is not None else None
    header = delta.header_of(service.info(), first, service.explain(f"#{at}")["resolved"])
    out = io.BytesIO()
    delta.export_delta(service, header, out.write, lambda done: None)
    return out.getvalue()


def imported(volume, data, seekable=True):
    file = io.BytesIO(data)
    if not seekable:
        file.seekable = lambda: False
    return delta.import_delta(VolumeService(volume), file, DeltaReader(file, "delta"), "copy", lambda done: None)


def test_a_chain_of_deltas_makes_the_same_disk(tmp_path):
    rnd = random.Random(4)
    with cdp.create(tmp_path / "web", size=SIZE) as web, cdp.create(tmp_path / "copy", size=SIZE) as copy:
        last = None
        for step in range(6):
            change(web, rnd)
            at = web.window().newest.seq
            data = exported(web, last, at)
            pieces, changed = imported(copy, data, seekable=step % 2 == 0)
            assert copy.pread(SIZE, 0) == web.pread(SIZE, 0)
            assert (pieces > 0) == (changed > 0)
            last = at
        back = exported(web, last, last)        # nothing: it is at that moment already
        assert len(back) == 160
        assert len(copy.bookmarks()) == 6


def test_what_does_not_belong_is_refused_and_leaves_no_trace(tmp_path):
    rnd = random.Random(5)
    with cdp.create(tmp_path / "web", size=SIZE) as web, cdp.create(tmp_path / "copy", size=SIZE) as copy:
        web.pwrite(b"a" * 8192, 0)
        first = exported(web, None, 1)
        web.pwrite(b"b" * 4096, 4096)           # 2
        web.trim(4096, 0)                       # 3
        second, third = exported(web, 1, 2), exported(web, 2, 3)
        with pytest.raises(InvalidRequest, match="is not known to be at #1"):
            imported(copy, second)
        imported(copy, first)
        with pytest.raises(InvalidRequest, match="has content"):
            imported(copy, first)
        with pytest.raises(InvalidRequest, match=r"is not known to be at #2 .*: it is at #1"):
            imported(copy, third)
        copy.pwrite(b"x" * 512, 1 << 20)
        with pytest.raises(InvalidRequest, match="was changed since it was at #1"):
            imported(copy, second)
        copy.pwrite(bytes(512), 1 << 20)        # as it was: only content counts
        imported(copy, second)
        seq = copy.window().newest.seq
        wrong = next(b.name for b in copy.bookmarks() if b.name.endswith("-2"))
        copy.pwrite(b"c" * 512, 0)
        copy.delete_bookmark(wrong)
        copy.bookmark(wrong)                    # the user says that it is at #2, and is wrong
        for seekable in (True, False):
            before = copy.pread(SIZE, 0)
            with pytest.raises(InvalidRequest, match="does not hold, at byte 0"):
                imported(copy, third, seekable)
            assert copy.pread(SIZE, 0) == before
        copy.restore(seq)
        copy.delete_bookmark(wrong)
        copy.bookmark(wrong)
        content = copy.pread(SIZE, 0)
        big = exported(web, 0, 3)
        for _ in range(15):                     # any flipped bit, any cut
            at = rnd.randrange(len(third))
            damaged = bytearray(third)
            damaged[at] ^= 1 << rnd.randrange(8)
            for data in (bytes(damaged), third[:at], third + b"x"):
                with pytest.raises((Corruption, InvalidRequest)):
                    imported(copy, data, rnd.random() < 0.5)
                assert copy.pread(SIZE, 0) == content
        assert big[:8] == third[:8]
        imported(copy, third)
        assert copy.pread(SIZE, 0) == web.pread(SIZE, 0)
    with cdp.create(tmp_path / "s", size=SIZE // 2) as small, pytest.raises(InvalidRequest, match="has 2097152 bytes"):
        imported(small, first)


def test_by_hand(tmp_path):
    web, copy, file = tmp_path / "web", tmp_path / "copy", tmp_path / "d"
    with cdp.create(web, size=SIZE) as volume:
        volume.pwrite(b"a" * 8192, 0)
        volume.bookmark("mon")
        volume.pwrite(b"b" * 4096, 4096)
        volume.bookmark("tue")
    whole = run("export", f"{web}@mon", "-", "--delta").stdout
    assert b"now at #1" in run("import", "--delta", "-", copy, stdin=None, input=whole).stdout
    made = json.loads(run("export", f"{web}@tue", file, "--since", "mon", "--json").stdout)
    assert (made["pieces"], made["changed_bytes"], made["file_bytes"]) == (1, 4096, file.stat().st_size)
    done = json.loads(run("import", "--delta", file, copy, "--json").stdout)
    assert done["changed_bytes"] == 4096 and done["bookmark"].endswith(f"-{made['explanation']['resolved']['seq']}")
    assert run("export", copy, "-").stdout == run("export", f"{web}@tue", "-").stdout
    assert b"no such volume" in run("import", "--delta", file, tmp_path / "new", status=exits.NOT_FOUND).stderr
    assert b"is not a delta" in run("import", "--delta", web / "volume.json", copy, status=exits.USAGE).stderr
    assert b"leave off --size" in run("import", "--delta", file, copy, "--size", "1M", status=exits.USAGE).stderr
    assert b"of its own" in run("export", web, "x", "--since", "mon", "--format", "qcow2", status=exits.USAGE).stderr
    assert b"exchange the two" in run("export", f"{web}@mon", tmp_path / "e", "--since", "tue",
                                      status=exits.USAGE).stderr
    assert not (tmp_path / "e").exists()

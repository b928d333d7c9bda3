"""diff --files against brute force: two trees that the kernel wrote, compared file by file."""
import json
import random
import shutil

import pytest
from support.interop import MIB, cdp_done, cdp_here
from support.mounted import by_kernel, make, mounted, need_a_kernel

import cdp
from cdp.cli import exits

pytestmark = [pytest.mark.interop, pytest.mark.once]
SIZE = 24 * MIB


def change(folder, rnd):
    for path in sorted(folder.rglob("*")):
        match rnd.randrange(12):
            case 0 if path.is_file():
                path.unlink()
            case 1 if path.is_file():
                path.write_bytes(rnd.randbytes(rnd.randrange(30_000)))
            case 2 if path.is_file():
                path.chmod(0o600 + rnd.randrange(64))
            case 3 if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            case 4 if path.is_dir():
                (path / f"new-{rnd.getrandbits(32)}").write_bytes(b"new")
            case 5 if path.is_file():
                path.rename(path.with_name(f"moved-{rnd.getrandbits(32)}"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
def test_as_by_brute_force(tmp_path, seed):
    need_a_kernel("mke2fs")
    rnd = random.Random(seed)
    image = make(tmp_path / "disk", SIZE, "-t", "ext4")
    with mounted(image, tmp_path / "mnt") as folder:
        for n in range(12):
            (folder / f"d{n}" / "in").mkdir(parents=True)
            for m in range(8):
                (folder / f"d{n}" / "in" / f"f{m}").write_bytes(rnd.randbytes(rnd.randrange(1, 20_000)))
        before = by_kernel(folder)
    old = image.read_bytes()
    with mounted(image, tmp_path / "mnt") as folder:
        change(folder, rnd)
        after = by_kernel(folder)
    new = bytearray(image.read_bytes())
    # Something else writes to the data of some files.
    still = [path for path in before if path in after and before[path] == after[path] and before[path][-1]]
    for path in rnd.sample(still, 3):
        at = new.index(before[path][-1][:512])
        new[at] ^= 0xFF
        after[path] = (*after[path][:-1], b"another")
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        volume.pwrite(old, 0)
        for at in range(0, SIZE, 65536):
            if old[at:at + 65536] != new[at:at + 65536]:
                volume.pwrite(new[at:at + 65536], at)
    rows = [json.loads(line) for line in cdp_here(
        "diff", f"{tmp_path}/web@#1", f"{tmp_path}/web", "--files", "--json").splitlines()]
    directory = 0o040000

    def seen(one):
        """Of a directory what comes and goes in it does not count: the files do."""
        return (one[:3] + one[4:6]) if one[0] == directory else one

    expected = {path: "removed" for path in before.keys() - after.keys()}
    expected |= {path: "added" for path in after.keys() - before.keys()}
    expected |= {path: "changed" for path in before.keys() & after.keys() if seen(before[path]) != seen(after[path])}
    assert {row["path"]: row["change"] for row in rows} == expected and len(set(expected.values())) == 3
    assert [row["path"] for row in rows] == sorted(expected)
    assert sum(row["what"] == ["data"] for row in rows) == 3
    done = cdp_done("diff", f"{tmp_path}/web@#1", "--files", "--path", "d3")
    assert "between #1 and" in done.stderr
    assert len(done.stdout.splitlines()) == sum(path.startswith("d3/") for path in expected)
    done = cdp_done("diff", f"{tmp_path}/web@#1", "--files", "--path", "none", status=exits.NOT_FOUND)
    assert "none: no such file" in done.stderr


def test_what_does_not_go_together(tmp_path):
    cdp.create(tmp_path / "web", size=SIZE).close()
    done = cdp_done("diff", f"{tmp_path}/web@#0", "--files", "--count", status=exits.USAGE)
    assert "go with --files" in done.stderr
    done = cdp_done("diff", f"{tmp_path}/web@#0", "--files", status=exits.UNAVAILABLE)
    assert "no file system" in done.stderr

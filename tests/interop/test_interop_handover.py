"""A server that is replaced by new processes under clients that other people wrote: fio, nbdcopy, QEMU, and a file
system that the kernel mounts."""
import json
import signal
import subprocess
import time

import pytest
from support.handover import Replaced
from support.interop import MIB, environ, library_files, need, run, sha256
from support.mounted import need_a_kernel
from test_interop_filesystem import TOOLS, block_device, checksums, mounted

from cdp.nbd.client import Client

pytestmark = pytest.mark.interop


@pytest.fixture(params=["after", "before"])
def upgraded(request, tmp_path):
    made = Replaced(tmp_path, request.param)
    yield made
    made.close()


def test_fio_verifies_through_upgrades(upgraded, seeds):
    need("fio")
    upgraded.create("web", 64)
    upgraded.serve("web")
    job = [f"--{key}={value}" for key, value in {
        "name": "x", "ioengine": "nbd", "uri": upgraded.uri("web"), "rw": "randrw", "bsrange": "512-64k",
        "size": "32M", "iodepth": 16, "rate_iops": 4000, "verify": "crc32c", "verify_backlog": 64, "time_based": 1,
        "runtime": 600, "fsync": 50, "output-format": "json"}.items()]
    fio = subprocess.Popen(["fio", *job], cwd=upgraded.path, env=environ(), stdout=subprocess.PIPE, text=True)
    waits_ms = []
    try:
        time.sleep(1)
        upgrades = seeds.pick(2, 20)
        for _ in range(upgrades):
            upgraded.replace("web")
            waits_ms.append(float(upgraded.log.read_text().split("their clients waited ")[1].split()[0]))
            assert fio.poll() is None
        fio.send_signal(signal.SIGINT)
        out, _ = fio.communicate(timeout=60)
    finally:
        fio.kill()
    result = json.loads(out[out.index("{"):])["jobs"][0]
    assert result["error"] == 0 and result["write"]["total_ios"] > 100
    print(f"clients waited: median {sorted(waits_ms)[upgrades // 2]:.0f} ms, max {max(waits_ms):.0f} ms")
    upgraded.stop()
    assert upgraded.json("check", "web")["ok"]


def _goes_on(upgraded, argv):
    """The copy ends well although the server is replaced. Whether it was still under way then."""
    copy = subprocess.Popen([str(arg) for arg in argv], env=environ())
    try:
        upgraded.replace("web")
        under_way = copy.poll() is None
        assert copy.wait(120) == 0
    finally:
        copy.kill()
    return under_way


def test_copies_go_on_through_an_upgrade(upgraded):
    """nbdcopy with four connections into a volume, and QEMU's streaming conversion out of it, slowed down."""
    need("nbdcopy", "qemu-img")
    source = upgraded.path / "source"
    source.write_bytes(b"".join(n.to_bytes(8, "little") * 512 for n in range(64 * 256)))
    upgraded.create("web", 64)
    upgraded.serve("web")
    into = ["nbdcopy", "--connections=4", "--flush", "--request-size=65536", source, upgraded.uri("web")]
    _goes_on(upgraded, into)
    (upgraded.path / "copy").touch()
    (upgraded.path / "copy").open("r+b").truncate(64 * MIB)
    for rate in ("16M", "4M", "1M"):        # slower, until the upgrade is the faster one
        if _goes_on(upgraded, ["qemu-img", "convert", "-n", "-r", rate, "-W", "-f", "raw", "-O", "raw",
                               upgraded.uri("web"), upgraded.path / "copy"]):
            break
    else:
        pytest.fail("no copy was under way when the server had been replaced")
    with Client(upgraded.uri("web")) as client:
        assert b"".join(client.pread(MIB, n * MIB) for n in range(64)) == source.read_bytes()
    assert sha256(upgraded.path / "copy") == sha256(source)
    upgraded.stop()


def test_a_mounted_file_system_stays_up(tmp_path):
    """ext4 on a loop device on nbdfuse: files are written and read through upgrades, and fsck finds nothing."""
    need_a_kernel(*TOOLS)
    world = Replaced(tmp_path)
    try:
        world.create("web", 128)
        world.serve("web")
        with block_device(world, "web") as device:
            run("mkfs.ext4", "-q", "-F", device)
            with mounted(world, device) as folder:
                for number in range(2):
                    upgrade = iter(range(1))
                    for inside, source in library_files(6 * MIB):
                        target = folder / str(number) / inside
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(source.read_bytes())
                        for _ in upgrade:
                            world.replace("web")
                    run("sync", "-f", folder)
                    run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches", status=None)
                    expected = {f"{number}/{inside}": sha256(source) for inside, source in library_files(6 * MIB)}
                    found = checksums(folder)
                    assert {name: found[name] for name in expected} == expected
            run("fsck.ext4", "-f", "-n", device)
        world.stop()
    finally:
        world.close()

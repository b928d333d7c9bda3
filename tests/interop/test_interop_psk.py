"""TLS with pre-shared keys and real clients: nbdinfo, nbdcopy and qemu-io with a file of keys, and who is turned
away."""
import json
import os
import subprocess

import pytest
from support.interop import need
from support.nbd import MIB, FakeExport, Shelf

from cdp.nbd import NbdServer, TcpAddress, TlsMode, TlsSettings
from cdp.nbd.psk import HAS_PSK
from cdpcore.bench.ram_disk import RamDisk

pytestmark = [pytest.mark.interop,
              pytest.mark.skipif(not HAS_PSK, reason="TLS with pre-shared keys is in Python from 3.13 on")]

SIZE = 8 * MIB
KEY, OTHER = "6a" * 32, "7b" * 32


def run(*args):
    return subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def served(tmp_path):
    """HOST:PORT of a disk of 8 MiB behind keys; others.psk has another key of alice."""
    keys = tmp_path / "keys.psk"
    keys.write_text(f"alice:{KEY}\nqemu:{OTHER}\n")
    keys.chmod(0o600)
    (tmp_path / "others.psk").write_text(f"alice:{OTHER}\n")
    disk = RamDisk(SIZE)
    with NbdServer(Shelf(disk=lambda: FakeExport(disk)), [TcpAddress("localhost", 0)],
                   tls=TlsSettings(TlsMode.REQUIRE, psk_file=str(keys))) as server:
        yield server.uri().removeprefix("nbds://").partition("/")[0]


@pytest.fixture
def nbds(served, tmp_path):
    return lambda user="alice", keys="keys.psk": f"nbds://{user}@{served}/disk?tls-psk-file={tmp_path / keys}"


def test_nbdinfo_and_nbdcopy(nbds, tmp_path):
    need("nbdinfo", "nbdcopy")
    done = run("nbdinfo", "--json", nbds())
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["TLS"] is True and got["exports"][0]["export-size"] == SIZE
    image, out = tmp_path / "image", tmp_path / "out"
    image.write_bytes(os.urandom(SIZE))
    for args in (("--flush", "--connections=4", image, nbds()), ("--connections=4", nbds(), out)):
        done = run("nbdcopy", *args)
        assert done.returncode == 0, done.stderr
    assert out.read_bytes() == image.read_bytes()


def test_who_is_turned_away(nbds, served):
    need("nbdinfo")
    for uri in (nbds(keys="others.psk"), f"nbd://{served}/disk", f"nbds://{served}/disk"):
        assert run("nbdinfo", "--size", uri).returncode != 0, uri
    done = run("nbdinfo", "--size", nbds())
    assert done.stdout == f"{SIZE}\n", done.stderr


def test_qemu(served, tmp_path):
    need("qemu-io")
    folder = tmp_path / "creds"
    folder.mkdir()
    (folder / "keys.psk").write_text(f"qemu:{OTHER}\n")
    host, port = served.rsplit(":", 1)
    creds = f"tls-creds-psk,id=tls0,endpoint=client,dir={folder},username=qemu"
    options = f"driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={host},file.server.port={port}," \
              "file.export=disk,file.tls-creds=tls0"
    done = run("qemu-io", "--object", creds, "--image-opts", "-c", "write -P 5 1M 4M", "-c", "read -P 5 1M 4M", options)
    assert done.returncode == 0 and "Pattern verification failed" not in done.stdout, done.stdout + done.stderr

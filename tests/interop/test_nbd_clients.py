"""Real NBD clients against the server: libnbd's tools, QEMU's, fio. A test skips by name where its tool is missing."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import threading

import pytest
from support.nbd import MIB, FakeExport, Shelf, until

from cdp.nbd import NbdServer, TcpAddress, TlsMode, TlsSettings, UnixAddress
from cdpcore.bench.ram_disk import RamDisk

pytestmark = pytest.mark.interop

SIZE = 48 * MIB
AWKWARD = ["web@-10m", "web@2024-05-01T10:00:00Z", "a b#c", "100%", "what?", "ünï", "a/b"]


class Setup:
    """A server with a writable export, a frozen one and some with awkward names."""

    def __init__(self, path: str, tls: TlsSettings | None = None):
        self.disk = RamDisk(SIZE)
        frozen = RamDisk(MIB, read_only=True)
        self.shelf = Shelf(disk=lambda: FakeExport(self.disk), frozen=lambda: FakeExport(frozen))
        for name in AWKWARD:
            self.shelf.exports[name] = lambda: FakeExport(frozen, description="awkward")
        self.server = NbdServer(self.shelf, [UnixAddress(path), TcpAddress("127.0.0.1", 0)], tls=tls or TlsSettings())

    def uri(self, name: str = "disk", listener: int = 0) -> str:
        return self.server.uri(name, listener)


@pytest.fixture
def setup(tmp_path):
    setup = Setup(str(tmp_path / "s"))
    with setup.server:
        yield setup
    assert all(export.closed == 1 for export in setup.shelf.opened)


def tool(name: str, *args: str, ok: bool = True, **more: object) -> str:
    """Run a client; its output. `ok`: whether it must succeed."""
    binary = shutil.which(name)
    if not binary:
        pytest.skip(f"no {name}")
    run = subprocess.run([binary, *args], capture_output=True, text=True, timeout=120, check=False, **more)
    assert (run.returncode == 0) == ok, f"{name} exited with {run.returncode}: {run.stdout}\n{run.stderr}"
    return run.stdout + run.stderr


@functools.cache
def libnbd_python() -> str | None:
    """A Python that has libnbd's module."""
    for directory in os.get_exec_path():
        python = os.path.join(directory, "python3")
        if (
            os.access(python, os.X_OK)
            and not subprocess.run([python, "-c", "import nbd"], capture_output=True, check=False).returncode
        ):
            return python
    return None


def libnbd(uri: str, script: str) -> str:
    """Run a script with `h`, connected, and `nbd` in scope; what it printed."""
    python = libnbd_python()
    if not python:
        pytest.skip("no libnbd module for Python")
    head = (
        "import nbd, sys\nh = nbd.NBD()\nh.set_handshake_flags(3)\nh.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)\n"
        "h.set_strict_mode(0)\nh.connect_uri(sys.argv[1])\n"
    )
    run = subprocess.run([python, "-c", head + script, uri], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("listener", [0, 1], ids=["unix", "tcp"])
def test_nbdinfo(setup, listener):
    info = json.loads(tool("nbdinfo", "--json", setup.uri("disk", listener)))
    export = info["exports"][0]
    assert info["protocol"] == "newstyle-fixed" and info["structured"]
    assert export["export-size"] == SIZE and export["contexts"] == ["base:allocation"]
    for flag in (
        "can_cache",
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
    ):
        assert export[flag] is True
    assert export["is_read_only"] is False
    assert [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")] == [1, 4096, 32 * MIB]


def test_nbdinfo_of_a_read_only_export(setup):
    export = json.loads(tool("nbdinfo", "--json", setup.uri("frozen")))["exports"][0]
    assert export["is_read_only"] is True
    assert not any(export[flag] for flag in ("can_trim", "can_zero", "can_fast_zero"))


def test_nbdinfo_list(setup):
    listed = json.loads(tool("nbdinfo", "--json", "--list", setup.uri("")))
    assert [export["export-name"] for export in listed["exports"]] == ["disk", "frozen", *AWKWARD]


def test_nbdinfo_says_why_not(setup):
    assert "nope" in tool("nbdinfo", setup.uri("nope"), ok=False)


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("listener", [0, 1], ids=["unix", "tcp"])
def test_uris_can_be_pasted(setup, name, listener):
    """libnbd and QEMU decode our URI to the name that we meant."""
    assert tool("nbdinfo", "--size", setup.uri(name, listener)).strip() == str(MIB)
    assert json.loads(tool("qemu-img", "info", "--output=json", setup.uri(name, listener)))["virtual-size"] == MIB
    assert set(setup.shelf.asked) == {name}


def test_map(setup):
    libnbd(
        setup.uri(),
        "h.pwrite(b'x' * 65536, 1 << 20)\nh.zero(8192, 4 << 20, nbd.CMD_FLAG_NO_HOLE)\nh.trim(4096, (1 << 20) + 4096)",
    )
    spans = [(e["offset"], e["length"], e["type"]) for e in json.loads(tool("nbdinfo", "--json", "--map", setup.uri()))]
    assert spans == [
        (0, MIB, 3),
        (MIB, 4096, 0),
        (MIB + 4096, 4096, 3),
        (MIB + 8192, 57344, 0),
        (MIB + 65536, 3 * MIB - 65536, 3),
        (4 * MIB, 8192, 2),
        (4 * MIB + 8192, SIZE - 4 * MIB - 8192, 3),
    ]
    mapped = json.loads(
        tool(
            "qemu-img",
            "map",
            "--output=json",
            "--image-opts",
            f"driver=nbd,server.type=unix,server.path={setup.server.addresses[0].path},export=disk",
        )
    )
    assert [m["start"] for m in mapped if not m["zero"]] == [MIB, MIB + 8192]


def _picture(tmp_path, seed=1):
    """A sparse file: noise, holes, zeros that are written."""
    rng = random.Random(seed)
    image = tmp_path / f"image-{seed}"
    with image.open("wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 3 * MIB):
            file.seek(at + rng.randrange(MIB))
            file.write(rng.randbytes(rng.randrange(1, MIB)))
            file.write(bytes(100_000))
    return image


@pytest.mark.parametrize("connections", ["1", "4"])
def test_nbdcopy_there_and_back(setup, tmp_path, connections):
    image, back = _picture(tmp_path), tmp_path / "back"
    tool("nbdcopy", f"--connections={connections}", "--flush", str(image), setup.uri())
    back.touch()
    tool("nbdcopy", f"--connections={connections}", setup.uri("disk", 1), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_img_there_and_back(setup, tmp_path):
    image, back = _picture(tmp_path, 2), tmp_path / "back"
    tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), setup.uri())
    assert "identical" in tool("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), setup.uri())
    tool("qemu-img", "convert", "-f", "raw", "-O", "raw", setup.uri("disk", 1), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_io(setup):
    out = tool(
        "qemu-io",
        "-f",
        "raw",
        "-d",
        "unmap",
        setup.uri(),
        "-c",
        "write -P 0x5a 12345 70000",
        "-c",
        "read -P 0x5a 12345 70000",
        "-c",
        "write -f -P 0x11 20k 4k",
        "-c",
        "read -P 0x11 20k 4k",
        "-c",
        "write -z 24k 8k",
        "-c",
        "read -P 0 24k 8k",
        "-c",
        "write -zu 32k 8k",
        "-c",
        "read -P 0 32k 8k",
        "-c",
        "discard 40k 8k",
        "-c",
        "read -P 0 40k 8k",
        "-c",
        "flush",
        "-c",
        "aio_write -P 1 1M 1M",
        "-c",
        "aio_write -P 2 2M 1M",
        "-c",
        "aio_flush",
        "-c",
        "read -P 1 1M 1M",
        "-c",
        "read -P 2 2M 1M",
    )
    assert "Pattern verification failed" not in out and "error" not in out.lower()
    assert out.count("read ") >= 6


def test_qemu_io_on_a_read_only_export(setup):
    tool("qemu-io", "-r", "-f", "raw", setup.uri("frozen"), "-c", "read -P 0 0 1M")
    assert "read" in tool("qemu-io", "-f", "raw", setup.uri("frozen"), "-c", "write 0 512", ok=False)


def test_libnbd_calls(setup):
    out = libnbd(
        setup.uri(),
        """
data = bytes(range(256)) * 512
h.pwrite(data, 1000, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 1000) == data
chunks = []
def chunk(buf, offset, status, error):
    chunks.append((offset, len(buf), status))
h.pread_structured(1 << 20, 0, chunk)
assert sum(c[1] for c in chunks) == 1 << 20 and {c[2] for c in chunks} == {nbd.READ_DATA, nbd.READ_HOLE}, chunks
chunks.clear()
h.pread_structured(1 << 20, 0, chunk, nbd.CMD_FLAG_DF)
assert len(chunks) == 1 and chunks[0][2] == nbd.READ_DATA
h.zero(4096, 4096)
h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(8192, 4096) == bytes(8192)
h.trim(100, 3)
h.cache(1 << 20, 0)
h.flush()
found = []
def extent(context, offset, entries, error):
    found.append((context, offset, list(entries)))
h.block_status(4096, 8192, extent, nbd.CMD_FLAG_REQ_ONE)
assert found == [("base:allocation", 8192, [4096, 2])], found
errors = {}
def attempt(what, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        errors[what] = error.errno
attempt("read past the end", h.pread, 512, h.get_size() - 1)
attempt("write past the end", h.pwrite, b"x" * 512, h.get_size() - 1)
attempt("trim past the end", h.trim, 512, h.get_size())
attempt("read of 33 MiB", h.pread, 33 << 20, 0)
attempt("cache of 33 MiB", h.cache, 33 << 20, 0)
attempt("bad flag", h.trim, 512, 0, 1 << 4)
attempt("nothing", h.block_status, 0, 0, extent)
assert h.pread(4, 0) == bytes(4)
print(sorted(errors.items()))
h.shutdown()
""",
    )
    assert out.strip() == str(
        [
            ("bad flag", "EINVAL"),
            ("cache of 33 MiB", "EOVERFLOW"),
            ("nothing", "EINVAL"),
            ("read of 33 MiB", "EOVERFLOW"),
            ("read past the end", "EINVAL"),
            ("trim past the end", "EINVAL"),
            ("write past the end", "ENOSPC"),
        ]
    )


def test_libnbd_without_structured_replies(setup):
    python = libnbd_python()
    if not python:
        pytest.skip("no libnbd module for Python")
    script = (
        "import nbd, sys\nh = nbd.NBD()\nh.set_request_structured_replies(False)\nh.connect_uri(sys.argv[1])\n"
        "h.pwrite(b'abc' * 1000, 7)\nassert h.pread(3000, 7) == b'abc' * 1000\n"
        "assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)\n"
        "assert not h.can_df() and not h.can_meta_context('base:allocation')\nh.shutdown()"
    )
    run = subprocess.run([python, "-c", script, setup.uri()], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_libnbd_writes_of_other_connections_are_visible_after_flush(setup):
    """CAN_MULTI_CONN: what one connection flushed, every other one reads."""
    libnbd(
        setup.uri(),
        """
others = []
for _ in range(3):
    other = nbd.NBD()
    other.connect_uri(sys.argv[1])
    others.append(other)
for i in range(60):
    writer, reader = others[i % 3], others[(i + 1) % 3]
    writer.pwrite(bytes([i]) * 4096, 4096 * (i % 7))
    if i % 2:
        writer.flush()
    assert reader.pread(4096, 4096 * (i % 7)) == bytes([i]) * 4096
""",
    )


@pytest.mark.parametrize("bs", ["4k", "512-128k"])
def test_fio_verify(setup, bs):
    """Random writes at depth 32, read back with checksums, over two connections."""
    out = tool(
        "fio",
        "--name=v",
        "--ioengine=nbd",
        f"--uri={setup.uri()}",
        "--rw=randwrite",
        f"--bsrange={bs}" if "-" in bs else f"--bs={bs}",
        "--bs_unaligned" if "-" in bs else "--group_reporting",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--size=16M",
        "--numjobs=2",
        "--offset_increment=16M",
        "--thread",
        "--output-format=json",
        "--randseed=7",
    )
    jobs = json.loads(out[out.index("{") :])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    assert sum(job["read"]["io_bytes"] for job in jobs) >= 31 * MIB  # all that was written was verified


def test_fio_mixed_with_fsync_and_trim(setup):
    out = tool(
        "fio",
        "--name=m",
        "--ioengine=nbd",
        f"--uri={setup.uri('disk', 1)}",
        "--rw=randrw",
        "--bs=4k",
        "--iodepth=16",
        "--fsync=8",
        "--size=8M",
        "--output-format=json",
        "--time_based=0",
        "--io_size=8M",
    )
    assert json.loads(out[out.index("{") :])["jobs"][0]["error"] == 0


def test_a_client_killed_under_load_hurts_nobody(setup):
    """fio at full speed is killed; its connection ends, its export is closed, others go on."""
    fio = shutil.which("fio")
    if not fio:
        pytest.skip("no fio")
    process = subprocess.Popen(
        [
            fio,
            "--name=k",
            "--ioengine=nbd",
            f"--uri={setup.uri()}",
            "--rw=randwrite",
            "--bs=64k",
            "--iodepth=32",
            "--size=32M",
            "--time_based",
            "--runtime=60",
            "--thread",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: sum(c.counters["writes"] for c in setup.server.connections()) > 500, "some writes")
    finally:
        process.kill()
        process.wait()
    until(lambda: not setup.server.connections(), "the end of the killed client's connection")
    tool("qemu-io", "-f", "raw", setup.uri(), "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M")


def test_closing_the_server_under_load(tmp_path):
    fio = shutil.which("fio")
    if not fio:
        pytest.skip("no fio")
    setup = Setup(str(tmp_path / "s"))
    setup.server.start()
    process = subprocess.Popen(
        [
            fio,
            "--name=k",
            "--ioengine=nbd",
            f"--uri={setup.uri()}",
            "--rw=randrw",
            "--bs=4k",
            "--iodepth=32",
            "--size=32M",
            "--time_based",
            "--runtime=60",
            "--numjobs=3",
            "--thread",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(
            lambda: len([c for c in setup.server.connections() if c.counters["writes"] > 100]) == 3,
            "three busy connections",
        )
        closing = threading.Thread(target=setup.server.close)
        closing.start()
        closing.join(30)
        assert not closing.is_alive() and not setup.server.connections()
    finally:
        process.kill()
        process.wait()
    assert all(export.closed == 1 for export in setup.shelf.opened)


@pytest.fixture
def secure(tmp_path, pki):
    tls = TlsSettings(
        TlsMode.REQUIRE, str(pki / "server-cert.pem"), str(pki / "server-key.pem"), str(pki / "ca-cert.pem")
    )
    setup = Setup(str(tmp_path / "s"), tls)
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    for have, want in (
        ("ca-cert.pem", "ca-cert.pem"),
        ("client-cert.pem", "client-cert.pem"),
        ("client-key.pem", "client-key.pem"),
    ):
        shutil.copy(pki / have, certificates / want)
    with setup.server:
        yield setup, certificates


def test_nbdinfo_and_nbdcopy_over_tls(secure, tmp_path):
    setup, certificates = secure
    uri = setup.uri("disk", 1).replace("127.0.0.1", "localhost") + f"?tls-certificates={certificates}"
    info = json.loads(tool("nbdinfo", "--json", uri))
    assert info["TLS"] and info["exports"][0]["export-size"] == SIZE
    image, back = _picture(tmp_path, 3), tmp_path / "back"
    tool("nbdcopy", "--flush", str(image), uri)
    back.touch()
    tool("nbdcopy", uri, str(back))
    assert back.read_bytes() == image.read_bytes()


def test_plain_clients_are_told_that_tls_is_needed(secure):
    setup, _ = secure
    out = tool("nbdinfo", setup.uri("disk", 1).replace("nbds:", "nbd:"), ok=False)
    assert "TLS" in out or "Permission" in out or "Required key" in out or "policy" in out.lower(), out


def test_qemu_over_tls(secure):
    setup, certificates = secure
    port = str(setup.server.addresses[1].port)
    out = tool(
        "qemu-io",
        "--object",
        f"tls-creds-x509,id=t,dir={certificates},endpoint=client",
        "--image-opts",
        f"driver=nbd,host=localhost,port={port},export=disk,tls-creds=t",
        "-c",
        "write -P 3 4k 1M",
        "-c",
        "read -P 3 4k 1M",
        "-c",
        "flush",
    )
    assert "1 ops" in out and "failed" not in out

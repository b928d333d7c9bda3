"""Fixtures of the NBD tests: a server on a unix socket, a client in its handshake, certificates."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest
from support.nbd import (
    MIB,
    FakeExport,
    Shelf,
    Talk,
)

from cdp.nbd import NbdServer, UnixAddress
from cdpcore.bench.ram_disk import RamDisk

# One of RSA takes some tenths of a second.
NEW_KEY = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"


@pytest.fixture
def shelf():
    disk, frozen = RamDisk(MIB), RamDisk(4096, read_only=True)
    return Shelf(
        disk=lambda: FakeExport(disk),
        frozen=lambda: FakeExport(frozen, description="f" * 5000),
        relative=lambda: FakeExport(disk, read_only=True, name="disk@#7", multi_conn=False),
    )


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


@pytest.fixture
def server(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)]) as server:
        yield server


def dial(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


@pytest.fixture
def talk(server, path):
    with dial(path) as sock:
        yield Talk(sock)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A CA, a server certificate for localhost and a client's; another CA's client too."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl")
    root = tmp_path_factory.mktemp("pki")

    def run(*args):
        subprocess.run([openssl, *args], cwd=root, check=True, capture_output=True)

    for ca in ("ca", "evil"):
        run(
            "req",
            "-x509",
            *NEW_KEY,
            "-nodes",
            "-keyout",
            f"{ca}-key.pem",
            "-out",
            f"{ca}-cert.pem",
            "-subj",
            f"/CN={ca}",
            "-days",
            "2",
        )
    for who, ca in (("server", "ca"), ("client", "ca"), ("stranger", "evil")):
        run(
            "req",
            *NEW_KEY,
            "-nodes",
            "-keyout",
            f"{who}-key.pem",
            "-out",
            f"{who}.csr",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        )
        run(
            "x509",
            "-req",
            "-in",
            f"{who}.csr",
            "-CA",
            f"{ca}-cert.pem",
            "-CAkey",
            f"{ca}-key.pem",
            "-CAcreateserial",
            "-out",
            f"{who}-cert.pem",
            "-days",
            "2",
            "-copy_extensions",
            "copy",
        )
    return root

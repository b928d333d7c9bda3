"""What docs/nbd.md says of requests beyond 32 MiB, here and in other servers, and of a server that is killed."""
import json
import subprocess
import sys

import pytest
from support.interop import MIB, environ, need, run, wait, world  # noqa: F401

from cdp.nbd.client import Client

pytestmark = pytest.mark.interop
# In Debian's libnbd, which is not this Python's.
ATTEMPTS = """
import errno, json, sys
try:
    import nbd
except ModuleNotFoundError:
    sys.exit(77)
found = []
for size in (32 << 20, (32 << 20) + 512, 64 << 20):
    for what in ("read", "write"):
        h = nbd.NBD()
        h.set_strict_mode(0)
        if len(sys.argv) > 2:
            h.set_export_name(sys.argv[2])
        h.connect_unix(sys.argv[1])
        try:
            h.pread(size, 0) if what == "read" else h.pwrite(b"x" * size, 0)
            found.append("ok")
        except nbd.Error as e:
            # Without a number: what libnbd makes of the bytes that qemu-nbd then takes for requests, and answers.
            found.append(errno.errorcode.get(e.errnum, "ENOTCONN"))
print(json.dumps(found))
"""


def attempts(*args):
    done = subprocess.run(["/usr/bin/python3", "-c", ATTEMPTS, *map(str, args)], capture_output=True, text=True,
                          timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip("needs Debian's python3-libnbd")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_requests_of_more_than_32_mib(world):  # noqa: F811
    need("qemu-nbd", "nbdkit")
    world.create("web", 80)
    world.serve("web")
    assert attempts(world.socket, "web") == ["ok", "ok", "EOVERFLOW", "EINVAL", "EOVERFLOW", "EINVAL"]
    world.stop()
    disk = world.path / "disk"
    with disk.open("wb") as file:
        file.truncate(80 * MIB)
    for argv, expected in (
            (["qemu-nbd", "-f", "raw", "-t", "-k", "{}", disk], ["ok", "ok", *["EINVAL", "ENOTCONN"] * 2]),
            (["nbdkit", "-f", "-U", "{}", "file", disk], ["ok"] * 6)):
        socket = world.sockets / argv[0]
        other = subprocess.Popen([str(word).format(socket) for word in argv], stderr=subprocess.DEVNULL, env=environ())
        try:
            wait(socket.exists, other)
            assert attempts(socket) == expected
        finally:
            other.kill()
            other.wait()


def test_what_a_kill_leaves(world):  # noqa: F811
    """Flushed: there. Acknowledged only: there or not, and the next server says nothing of it to who reconnects."""
    world.create("web", 1)
    world.serve("web", "--commit-interval-ms", "60s")
    with Client(world.uri("web")) as client:
        client.pwrite(b"1" * 4096, 0)
        client.flush()
        client.pwrite(b"2" * 4096, 0)
        client.pwrite(b"3" * 4096, 8192)
        world.kill()
    world.serve("web")
    with Client(world.uri("web")) as client:
        assert client.pread(4096, 0) == b"1" * 4096 and client.pread(4096, 8192) == bytes(4096)
    world.stop()
    assert "#2 " in run(sys.executable, "-m", "cdp", "records", "web", cwd=world.path).stdout

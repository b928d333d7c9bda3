"""The limit of a history over NBD: clients get ENOSPC at it, other volumes and readers notice nothing, and when there
is room again, the same connections go on."""
import errno
import json
import time

import pytest
from support.interop import cdp_argv, run, world  # noqa: F401

from cdp.nbd.client import Client
from cdpcore.base.errors import CdpError

MIB = 1 << 20


def refused(said):
    return said["writes"] == "refused" or 0 <= said["room_bytes"] < 2 * MIB


def test_clients_get_enospc_and_go_on(world):  # noqa: F811
    world.create("web", 4)
    world.create("other", 4)
    world.cdp("policy", "web", "--keep", "all for 1h", "--limit", "64MiB", "--when-full", "refuse")
    world.serve("web", "other")
    with Client(world.uri("web")) as client, Client(world.uri("other")) as other:
        with pytest.raises(CdpError) as full:
            for i in range(100):
                client.pwrite(bytes([i]) * MIB, i % 4 * MIB)
        assert full.value.nbd_errno == errno.ENOSPC and 55 <= i < 64
        client.flush()
        assert client.pread(MIB, (i - 1) % 4 * MIB) == bytes([i - 1]) * MIB
        other.pwrite(b"x" * MIB, 0)
        other.flush()
        until_s = time.monotonic() + 60
        while not refused(json.loads(world.cdp("policy", "web", "--json"))):     # it is looked at once a second
            assert time.monotonic() < until_s
            time.sleep(0.1)
        with pytest.raises(CdpError):
            client.trim(4 * MIB, 0)
            client.pwrite(b"y" * MIB, 0)
        world.cdp("policy", "web", "--keep", "all for 1h", "--limit", "1GiB", "--when-full", "throttle")
        client.pwrite(b"y" * MIB, 0)
        client.flush()
        assert client.pread(MIB, 0) == b"y" * MIB
    assert run(*cdp_argv("check", "web"), cwd=world.path, status=None).returncode in (0, 7)

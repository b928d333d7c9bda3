"""A group of volumes that a server has: one moment of all of them under clients; several servers are refused; what
nobody serves is opened by the command itself."""
import threading
import time

import pytest
from support.interop import World, world  # noqa: F401

import cdp
from cdp.nbd.client import Client
from cdp.service.groups import Group

VOLUMES = ("db", "wal", "web")


@pytest.fixture
def served(world):  # noqa: F811
    for name in VOLUMES:
        world.create(name, 1)
    world.serve(*VOLUMES)
    world.cdp("group", "create", "shop", *VOLUMES)
    return world


def number(client):
    return int.from_bytes(client.pread(8, 0), "little")


def test_one_moment_under_clients(served):
    acked, stop = [0] * len(VOLUMES), False

    def chain():
        """n to the first, then, when that was acknowledged, to the second ..."""
        n = 0
        while not stop:
            n += 1
            for i, client in enumerate(clients):
                client.pwrite(n.to_bytes(8, "little") + bytes(504), 0)
                acked[i] = n

    clients = [Client(served.uri(name)) for name in VOLUMES]
    thread = threading.Thread(target=chain)
    thread.start()
    with Group(served.path / "shop") as group:
        group.connect()
        try:
            while not all(acked):
                time.sleep(0.001)
            for n in range(8):
                before = list(acked)
                made = group.bookmark(f"m{n}")
                after = [found + 1 for found in acked]
                shown = []
                for name in VOLUMES:
                    with Client(served.uri(f"{name}@m{n}")) as client:
                        shown.append(number(client))
                assert shown == sorted(shown, reverse=True) and shown[0] - shown[-1] <= 1
                assert all(lo <= one <= hi for lo, one, hi in zip(before, shown, after, strict=True))
                assert made.pause_ns > 0 and len(made.at) == 3
        finally:
            stop = True
            thread.join()
        with pytest.raises(cdp.Busy, match="may write"):
            group.restore("m3")
        assert group.interrupted is None and group.restores() == []
        for client in clients:
            client.close()
        group.restore("m3")
        with Client(served.uri("db")) as db, Client(served.uri("db@m3")) as then:
            assert number(db) == number(then) < acked[0]
        group.undo()
        with Client(served.uri("db")) as db:
            assert number(db) == acked[0]
        group.create_image("trial", "m3")
        with Client(served.uri("web/trial")) as image, Client(served.uri("web@m3")) as then:
            assert number(image) == number(then)


def test_servers(served, tmp_path):
    """One, and a volume that nobody serves: exact. Two: refused, and nothing is left of it."""
    served.create("own", 1)
    served.cdp("group", "create", "mixed", "db", "own")
    with Client(served.uri("db")) as client:
        client.pwrite(bytes(512), 0)
    made = served.json("group", "bookmark", "mixed", "here")["volumes"]
    assert made[0]["at"]["seq"] >= 1 and made[1]["at"]["seq"] == 0
    other = World(served.path, served.kind)
    other.log = served.path / "other.log"
    other.serve("own")
    try:
        served.cdp("group", "bookmark", "mixed", "there", status=2)
        assert served.json("group", "show", "mixed")["interrupted"] is None
        assert [mark["name"] for mark in served.json("bookmarks", "db")] == ["here"]
        served.cdp("group", "restore", "mixed@here")        # of a moment that was made before
    finally:
        other.close()

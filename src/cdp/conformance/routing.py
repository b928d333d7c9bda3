"""Rules of the routers, with the engine and an NBD server behind them: files, servers, several paths, LUNs of other
nodes."""
from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cdp.conformance.kit import Nodes, Threads, eventually, expect, refused, rule, soon
from cdp.platform import CpSendReq, GroupName, IoRequest, IORouterImpl, Lun, Op
from cdpcore.base.errors import CdpError, Closed, InvalidRequest, NotFound

SIZE = 1 << 20
BLOCK = 4096


@contextmanager
def folder() -> Iterator[str]:
    """A place for files."""
    with tempfile.TemporaryDirectory(prefix="cdp-conformance-") as path:
        yield path


@dataclass
class Exported:
    """What an NBD server needs to know (cdp.nbd.exports.Export)."""

    capsule: Any
    size_bytes: int
    read_only: bool = False
    description: str = "conformance"

    def close(self) -> None:
        """Nothing to do."""


class Resolver:
    """One export for every name."""

    def __init__(self, capsule: Any, size_bytes: int):
        self._exported = Exported(capsule, size_bytes)

    def list(self) -> list[tuple[str, str]]:
        return [("disk", "conformance")]

    def open(self, _name: str) -> Exported:
        return self._exported


def server(capsule: Any, socket: str) -> Any:
    """An NBD server of a disk, not started."""
    from cdp.nbd import NbdServer, UnixAddress

    return NbdServer(Resolver(capsule, SIZE), [UnixAddress(socket)])


def data(number: int, length: int = BLOCK) -> bytes:
    return number.to_bytes(8, "little") * (length // 8)


def read(router: IORouterImpl, offset: int, length: int) -> bytes:
    found = bytearray(length)
    router.run(Op.READ, offset, length, memoryview(found))
    return bytes(found)


def check_disk(router: IORouterImpl) -> None:
    """What every router must do."""
    expect(router.size_bytes == SIZE, f"a disk of {router.size_bytes} bytes instead of {SIZE}")
    # Unaligned, longer than a packet's buffers, to the very end.
    long = os.urandom(300_000)
    router.run(Op.WRITE, 513, len(long), memoryview(long), True)
    router.run(Op.WRITE, SIZE - 100, 100, memoryview(b"e" * 100))
    router.run(Op.FLUSH)
    expect(read(router, 513, len(long)) == long and read(router, SIZE - 100, 100) == b"e" * 100,
           "reads other data than was written")
    router.run(Op.TRIM, 1024, 70_000)
    router.run(Op.ZERO, 100_000, 3)
    want = bytearray(long)
    want[1024 - 513:1024 - 513 + 70_000] = bytes(70_000)
    want[100_000 - 513:100_003 - 513] = bytes(3)
    expect(read(router, 513, len(long)) == want, "a trim or zero is not what is read")
    for bad in (IoRequest(Op.READ, SIZE - 1, 2, memoryview(bytearray(2))),
                IoRequest(Op.WRITE, 0, 5, memoryview(b"four")),
                IoRequest(Op.READ, 0, 4, memoryview(b"four")), IoRequest(Op.FLUSH, 0, 4), IoRequest(Op.TRIM, 0, 0)):
        refused(InvalidRequest, partial(router.submit, bad), f"{bad}")
    check_order(router)


def check_order(router: IORouterImpl) -> None:
    """Overlapping requests in the order of submit(), done exactly once, on a thread of the router."""
    completed: list[tuple[int, CdpError | None]] = []
    on: set[int] = set()
    lock = threading.Lock()
    reads = [bytearray(BLOCK) for _ in range(20)]

    def done(number: int) -> Any:
        def call(_request: IoRequest, error: CdpError | None) -> None:
            with lock:
                completed.append((number, error))
                on.add(threading.get_ident())
        return call

    for i in range(20):     # half of each write is overwritten by the next
        router.submit(IoRequest(Op.WRITE, BLOCK * 8, BLOCK, memoryview(data(2 * i)), done=done(2 * i)), deadline=soon())
        router.submit(IoRequest(Op.READ, BLOCK * 8, BLOCK, memoryview(reads[i]), done=done(2 * i + 1)), deadline=soon())
    eventually(lambda: len(completed) == 40, f"{len(completed)} of 40 requests were done")
    time.sleep(0.05)
    expect(sorted(n for n, _ in completed) == list(range(40)), "a request was done twice")
    expect(not any(error for _, error in completed), f"a request failed: {next((e for _, e in completed if e), None)}")
    expect([bytes(found) for found in reads] == [data(2 * i) for i in range(20)],
           "a request overtook one that it overlaps")
    expect(threading.get_ident() not in on, "done on the thread that submits")


@rule(nodes=1)
def router_to_a_file(nodes: Nodes) -> None:
    """A file as a disk: what is written is read, in order, and done once; what is out of range is refused."""
    with folder() as path:
        name = f"{path}/disk"
        with open(name, "wb") as file:
            file.truncate(SIZE)
        with nodes[0].open_router(f"file:{name}") as router:
            check_disk(router)
        refused(Closed, lambda: router.run(Op.FLUSH), "a request to a router that was closed")
        refused(NotFound, lambda: nodes[0].open_router(f"file:{path}/none"), "a file that is not there")
        refused(InvalidRequest, lambda: nodes[0].open_router("floppy:a"), "a place that nobody knows")


def ram_disk() -> Any:
    from cdpcore.bench.ram_disk import RamDisk

    return RamDisk(SIZE).capsule


@rule(nodes=1)
def router_to_an_nbd_server(nodes: Nodes) -> None:
    """A remote export as a disk, in the same way."""
    with folder() as path, server(ram_disk(), f"{path}/s"), \
            nodes[0].open_router(f"nbd+unix:///disk?socket={path}/s") as router:
        check_disk(router)


@rule(nodes=1)
def multipath_survives_a_lost_path(nodes: Nodes) -> None:
    """With two paths to a disk a server may die: no request fails, the order of overlapping ones is kept, and when the
    server is back its path is used again."""
    capsule = ram_disk()
    with folder() as path:
        first, second = (server(capsule, f"{path}/{i}") for i in (1, 2))
        first.start()
        second.start()
        try:
            with nodes[0].open_router(*(f"nbd+unix:///disk?socket={path}/{i}" for i in (1, 2))) as router:
                check_disk(router)
                completed: list[CdpError | None] = []
                number = 0

                def burst(n: int) -> None:
                    nonlocal number
                    for _ in range(n):
                        number += 1
                        router.submit(IoRequest(Op.WRITE, BLOCK * (number % 3), 2 * BLOCK,
                                                memoryview(data(number, 2 * BLOCK)),
                                                done=lambda _request, error: completed.append(error)), deadline=soon())

                burst(100)
                closer = threading.Thread(target=first.close, args=(0.0,))
                closer.start()
                burst(300)
                closer.join()
                burst(100)
                check_all(router, completed, number, "while a path was lost")
                expect(first.connections() == [], "the dead server has a connection")
                first = server(capsule, f"{path}/1")
                first.start()
                eventually(lambda: first.connections(), "the path was not tried again")
                second.close(0.0)
                burst(100)
                check_all(router, completed, number, "after the first path came back and the second was lost")
        finally:
            first.close(0.0)
            second.close(0.0)


def check_all(router: IORouterImpl, completed: list[CdpError | None], number: int, when: str) -> None:
    eventually(lambda: len(completed) >= number, f"{when} {number - len(completed)} requests were not done")
    expect(len(completed) == number, f"{when} requests were done twice")
    expect(not any(completed), f"{when} a request failed: {next((error for error in completed if error), None)}")
    want = [b""] * 4
    for n in range(max(1, number - 9), number + 1):
        want[n % 3] = want[n % 3 + 1] = data(n)
    expect([read(router, i * BLOCK, BLOCK) for i in range(4)] == want,
           f"{when} a request overtook one that it overlaps")


@rule(nodes=2)
def forwarding_to_the_owner(nodes: Nodes) -> None:
    """A LUN is read and written on a node that does not own it, through the owner, with the engine behind it: history
    and all. When the LUN moves to another node, requests go there, and none fails."""
    import cdp
    from cdp.platform.tsd import Tsd

    with folder() as path:
        cdp.create(f"{path}/v", size=SIZE).close()
        lun = Lun(7, f"{path}/v")
        with Tsd(nodes[0]) as here, Tsd(nodes[1]) as there:
            workload = nodes[0].workload
            workload.assign(here.group, (lun,), deadline=soon())
            free = [node.buffers.available() for node in nodes]
            with nodes[1].open_router("lun:7") as router:
                check_disk(router)
                before = here.volume(7).bookmark("before").at.seq
                router.run(Op.WRITE, 0, BLOCK, memoryview(data(5)))
                with here.volume(7).at("before") as image:
                    expect(image.pread(BLOCK, 0) != data(5), "the history does not show what was before")
                expect(here.volume(7).window().newest.seq > before, "a forwarded write left no record")
                completed: list[CdpError | None] = []
                stop = threading.Event()

                def load() -> None:
                    n = 0
                    while not stop.is_set():
                        router.submit(IoRequest(Op.WRITE, 0, BLOCK, memoryview(data(n := n + 1)),
                                                done=lambda _request, error: completed.append(error)), deadline=soon())
                        if not n % 16:
                            router.run(Op.FLUSH)
                    router.run(Op.FLUSH)
                    expect(read(router, 0, BLOCK) == data(n) and len(completed) == n,
                           "requests are lost, or out of order, after the LUN moved")

                with Threads() as threads:
                    threads.start(load)
                    for tsd in (there, here, there):
                        time.sleep(0.1)
                        workload.assign(tsd.group, (lun,), deadline=soon())
                    stop.set()
                expect(not any(completed),
                       f"a request failed while the LUN moved: {next((error for error in completed if error), None)}")
                expect(there.volume(7).size_bytes == SIZE and not here.luns(), "the LUN did not move")
            workload.assign(there.group, (Lun(7, f"{path}/v", read_only=True),), deadline=soon())
            with nodes[0].open_router("lun:7") as router:
                expect(router.read_only, "a read-only LUN does not say so")
                refused(InvalidRequest, lambda: router.run(Op.TRIM, 0, BLOCK), "a change to a read-only disk")
            expect([node.buffers.available() for node in nodes] == free, "buffer groups were lost on the way")
        refused(NotFound, lambda: nodes[0].open_router("lun:99"), "a LUN that nobody knows")


@rule(nodes=1)
def closing(nodes: Nodes) -> None:
    """close() may be called again, and what is closed says Closed."""
    (node,) = nodes
    node.close()
    node.close()
    name = GroupName(900, 0)
    refused(Closed, lambda: node.control.register(name), "registering on a closed platform")
    refused(Closed, lambda: node.control.send(CpSendReq(name, b"", name), deadline=soon()),
            "sending on a closed platform")
    refused(Closed, lambda: node.buffers.request(1, deadline=soon()), "buffers of a closed platform")

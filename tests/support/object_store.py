"""A store of objects in memory, as cdp.archive.objects describes one; with `rnd`, one whose requests fail, are carried
out though they fail, are carried out late, or are answered twice."""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from cdp.archive.objects import Conflict
from cdpcore.base.errors import Unavailable

Request = Callable[[], None]


class MemoryStore:
    """One after the other, each request as it is said to be."""

    url = "memory://archive"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.sent = 0

    def _count(self, what: str, data: bytes = b"") -> None:
        self.requests[what] = self.requests.get(what, 0) + 1
        self.sent += len(data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        self._count("get")
        data = self.objects.get(name)
        return None if data is None else data[offset:] if length is None else data[offset:offset + length]

    def tagged(self, name: str) -> tuple[bytes, str] | None:
        data = self.get(name)
        return None if data is None else (data, str(self._versions[name]))

    def create(self, name: str, data: bytes) -> None:
        self._count("create", data)
        self.put_new(name, data)

    def put_new(self, name: str, data: bytes) -> None:
        if name in self.objects:
            raise Conflict(name)
        self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        self.objects[name] = data
        self._versions[name] = self._versions.get(name, 0) + 1

    def replace(self, name: str, data: bytes, tag: str) -> None:
        self._count("replace", data)
        self.put_over(name, data, tag)

    def put_over(self, name: str, data: bytes, tag: str) -> None:
        if name not in self.objects or str(self._versions[name]) != tag:
            raise Conflict(name)
        self._put(name, data)

    def names(self, folder: str) -> Iterator[str]:
        self._count("list")
        yield from sorted(name for name in self.objects if name.startswith(folder))

    def delete(self, name: str) -> None:
        self._count("delete")
        self.drop(name)

    def drop(self, name: str) -> None:
        self.objects.pop(name, None)


class FaultyStore(MemoryStore):
    """Args: rnd; rate: of requests that something happens to. `between` is called before each request: there other
    writers take their turn. What is late is carried out before some later request, of whomever; flush_late() carries
    out all of it."""

    def __init__(self, rnd: random.Random, rate: float):
        super().__init__()
        self._rnd, self.rate = rnd, rate
        self._late: list[Request] = []
        self.between: Callable[[], None] = lambda: None

    def _turn(self) -> None:
        self.between()
        while self._late and self._rnd.random() < 0.1:
            self._carry_out(self._late.pop(self._rnd.randrange(len(self._late))))

    def _carry_out(self, request: Request) -> None:
        try:
            request()
        except Conflict:
            pass        # nobody waits for the answer

    def flush_late(self) -> None:
        while self._late:
            self._carry_out(self._late.pop())

    def _read(self) -> None:
        self._turn()
        if self._rnd.random() < self.rate / 2:
            raise Unavailable("time-out")

    def _write(self, request: Request, conditional: bool = True) -> None:
        self._turn()
        if self._rnd.random() >= self.rate:
            request()
            return
        match self._rnd.randrange(5):
            case 0:                             # it never came
                raise Unavailable("time-out")
            case 1:                             # the answer never came
                self._carry_out(request)
                raise Unavailable("time-out")
            case 2:                             # it comes later
                self._late.append(request)
                raise Unavailable("time-out")
            case 3:                             # the client repeated it, and hears about the second one
                request()
                if conditional:
                    raise Conflict("exists")
            case _:                             # and what was repeated comes again, later
                request()
                self._late.append(request)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        self._read()
        return super().get(name, offset, length)

    def create(self, name: str, data: bytes) -> None:
        self._count("create", data)
        self._write(lambda: self.put_new(name, data))

    def replace(self, name: str, data: bytes, tag: str) -> None:
        self._count("replace", data)
        self._write(lambda: self.put_over(name, data, tag))

    def names(self, folder: str) -> Iterator[str]:
        self._read()
        yield from super().names(folder)

    def delete(self, name: str) -> None:
        self._count("delete")
        self._write(lambda: self.drop(name), conditional=False)

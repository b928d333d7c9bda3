"""A target whose reads may have to wait for a device, and what must hold of all that is served from it."""
from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from support.nbd import FLUSH, FUA, MIB, READ, WRITE, Spy, request, write

COLD = MIB // 2     # from here on a read has to wait


class Device(Spy):
    """Memory up to COLD; from there on a device that answers when `answers` is set, as it does flushes."""

    def __init__(self, size_bytes: int = MIB):
        super().__init__(size_bytes, waits=lambda offset, length: offset + length > COLD)
        self.answers = threading.Event()
        self.waiting = self.most = 0
        self.lock = threading.Lock()
        self.hook = self._wait

    def _wait(self, name: str, offset: int, length: int) -> None:
        if name not in ("pread", "flush"):
            return
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        assert self.answers.wait(20)
        with self.lock:
            self.waiting -= 1


def durable_means_durable(seed: int, connect: Callable[[Device, bool], AbstractContextManager[Any]]) -> None:
    """When a FLUSH or a FUA is answered, a flush of the target has ended that began after every write that had been
    answered before the request was sent; for FUA after its own write too. connect: with a device, and whether replies
    are structured, gives what has a `wire`."""
    rnd = random.Random(seed)
    device = Device()
    device.answers.set()
    clock = [0]
    written: dict[int, int] = {}        # offset -> when its pwrite ended
    durable = [0]                       # all that was written before this is durable
    began: dict[int, int] = {}
    lock = threading.Lock()

    def hook(name: str, offset: int, length: int) -> None:
        threading.Event().wait(rnd.choice([0, 0, 0.001, 0.003]) if name in ("pread", "flush") else 0)
        if name == "flush":
            with lock:
                clock[0] += 1
                began[threading.get_ident()] = clock[0]
            threading.Event().wait(rnd.choice([0, 0.001, 0.005]))
            with lock:
                durable[0] = max(durable[0], began.pop(threading.get_ident()))
        elif name == "pwrite":
            with lock:
                clock[0] += 1
                written[offset] = clock[0]
    device.hook = hook
    with connect(device, rnd.random() < 0.5) as s:
        sent: dict[int, tuple[int, int]] = {}     # cookie -> kind, what must be durable when it is answered
        reads: dict[int, tuple[int, int]] = {}
        answered = 0                               # the newest write that was answered
        for cookie in range(1, 400):
            kind = rnd.choice([READ, WRITE, WRITE, FLUSH, FUA])
            offset = cookie if kind != READ else rnd.choice([cookie, COLD + cookie])
            if kind == READ:
                reads[cookie] = (1, offset)
                s.wire.send(request(READ, offset, 1, cookie=cookie))
            elif kind == FLUSH:
                s.wire.send(request(FLUSH, cookie=cookie))
            else:
                s.wire.send(write(offset, b"x", flags=FUA if kind == FUA else 0, cookie=cookie))
            sent[cookie] = (kind, answered)
            while len(sent) > rnd.choice([0, 1, 8, 32]):
                reply = s.wire.reply(reads=reads)
                kind, must = sent.pop(reply.cookie)
                assert reply.error == 0
                with lock:
                    if kind == FUA:
                        at = written[reply.cookie]
                        asked = [call for call in device.calls if call[0] == "pwrite" and call[1] == reply.cookie]
                        assert durable[0] > at or asked[-1][3] & 1, "a FUA write that no flush covers"
                    elif kind == FLUSH:
                        assert must == 0 or durable[0] > must, "a flush that began before a write that was answered"
                    elif kind == WRITE:
                        answered = max(answered, written[reply.cookie])

"""A volume with a listener for standbys, in this process, and a standby that follows it in a thread."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import cdp
from cdp.nbd.listeners import UnixAddress
from cdp.settings import Settings
from cdp.standby.listener import StandbyListener
from cdp.standby.receiver import Receiver, Source
from cdp.standby.standing import Standing
from cdp.store.layout import segment_numbers
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdp.volume.volume import Volume
from cdpcore.log import shipping
from cdpcore.system.os import posix

PATIENCE_S = 60.0


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """Its value, once that is true. A time-out is a failure of the test, not a measurement."""
    until = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < until, what
        time.sleep(0.01)
    return found


class Owner:
    """The volume at `path`, open, with a listener at SOCK beside it."""

    def __init__(self, path: str, tuning: Tuning, read_only: bool = False):
        self.volume = Volume(path, _tuning=tuning)
        self.socket = f"{path}.sock"
        self.standing = Standing(self.volume)
        self.listener = StandbyListener([UnixAddress(self.socket)], {"v": self.volume}, {"v": self.standing}, None)
        self.listener.start()

    def close(self) -> None:
        self.listener.close()
        self.standing.close()
        self.volume.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def followed(self) -> None:
        """Wait until the standby has all."""
        self.volume.flush()
        newest = self.volume.window().newest.seq
        eventually(lambda: (view := self.standing.view()) and view["connected"] and view["seq"] >= newest,
                   f"the standby did not come to #{newest}: {self.standing.view()}")


class Standby:
    """A standby in `folder` that follows what listens at `socket`, until stop()."""

    def __init__(self, folder: Path, socket: str, settings: Settings | None = None):
        self.folder = folder
        self.receiver = Receiver(str(folder), Source.parse(f"unix:{socket}", None), "v", settings or cdp.Settings())
        self.said: list[str] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.receiver.run(lambda: False, self.said.append)
        except Exception as error:  # noqa: BLE001  (of a thread: the test raises it)
            self.error = error

    def ended(self) -> BaseException | None:
        """Wait until it ends by itself."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.error

    def stop(self) -> None:
        self.receiver.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.receiver.stop()
            self._thread.join(PATIENCE_S)


def same_bytes(volume: Volume, folder: Path) -> int:
    """The log of the standby is that of the volume, byte by byte, all of it that is durable. Returns how many bytes
    that are. Nothing is written meanwhile; what was sealed was not punched."""
    ours, theirs = VolumeFiles(volume.path), VolumeFiles(str(folder))
    numbers = {row.number for row in volume._store.timeline.rows()}
    eventually(lambda: numbers <= set(segment_numbers(posix(), theirs)), "sealed segments did not come")
    total = 0
    for number in sorted(numbers):
        a, b = Path(ours.segment(number)).read_bytes(), Path(theirs.segment(number)).read_bytes()
        assert a == b, f"segment {number} differs"
        total += len(a)
    for number, _, _, end in shipping.unsealed(volume._store.log):
        if number not in numbers:
            a, b = Path(ours.segment(number)).read_bytes()[:end], Path(theirs.segment_part(number)).read_bytes()
            assert a == b, f"open segment {number} differs: {len(a)} and {len(b)} bytes"
            total += end
    return total

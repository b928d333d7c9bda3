"""The probes of a bisection: a command run on a throw-away writable image of a moment, over NBD, and mounted if asked.

Threading: probe() from several threads.
"""
from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from cdp.cli.base import note
from cdp.cli.mounting import CannotMount, lacks, mounted
from cdp.cli.throw_away import ThrowAway
from cdp.moments.bisection import BAD, GOOD, SKIP
from cdp.service.locate import Location
from cdp.settings import Settings
from cdpcore.base.errors import InvalidRequest, RefusedPoint, Unavailable

CANNOT_TELL = 125       # as git bisect run has it; less, but not 0: bad


def ready_made(test: tuple[str, ...], fsck: bool, path: str | None, sha256: str | None, postgres: str | None,
               query: str | None) -> list[str]:
    """The command to run. Raises InvalidRequest where there is none, or more than one."""
    if bool(test) + fsck + (path is not None) + (postgres is not None) != 1:
        raise InvalidRequest("what tells good from bad is one of: a command, --fsck, --file, --postgres",
                             "write, for instance, -- ./check {uri}")
    if (path is None) != (sha256 is None) or (postgres is None) != (query is None):
        raise InvalidRequest("--file and --sha256 go together, and --postgres and --query", "give both")
    if test:
        return list(test)
    if postgres is not None:
        return [sys.executable, "-m", "cdp.cli.postgres_probe", "{dir}", postgres, str(query)]
    ours = [sys.executable, "-m", "cdp.cli.ext4_probe", "{uri}"]
    return [*ours, "fsck"] if fsck else [*ours, "file", str(path), str(sha256).lower()]


class Probes:
    """A context manager. `mount`: the command gets the moment mounted, too."""

    def __init__(self, location: Location, settings: Settings, argv: list[str], mount: bool = False):
        self._images, self._argv, self._mount = ThrowAway(location, settings, "bisect"), argv, mount

    def __enter__(self) -> Self:
        if self._mount and (why := lacks()):
            raise Unavailable(f"cannot mount: {why}", "leave off --mount, and use the NBD export: {uri}, $CDP_URI")
        self._images.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._images.__exit__(kind, error, trace)

    def probe(self, seq: int) -> str:
        """GOOD, BAD or SKIP. Raises Unavailable where the command ended in another way."""
        with ExitStack() as stack:
            try:
                uri = stack.enter_context(self._images.image(seq))
            except RefusedPoint:
                return SKIP     # of history that was freed or thinned
            try:
                folder = stack.enter_context(mounted(uri)) if self._mount else ""
            except CannotMount as error:
                note(f"#{seq}: {error.message}")
                return BAD
            return self._run(seq, uri, folder)

    def _run(self, seq: int, uri: str, folder: str) -> str:
        argv = [arg.replace("{uri}", uri) for arg in self._argv]
        env = {**os.environ, "CDP_URI": uri, "CDP_SEQ": str(seq)}
        if folder:
            argv = [arg.replace("{dir}", folder) for arg in argv]
            env["CDP_DIR"] = folder
        try:
            done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=2, env=env)
        except OSError as error:
            raise InvalidRequest(f"{argv[0]}: {error.strerror}", "give a command that can be run") from None
        if done.returncode in (0, CANNOT_TELL):
            return SKIP if done.returncode else GOOD
        if 0 < done.returncode < CANNOT_TELL:
            return BAD
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise Unavailable(f"the command ended with {how} at #{seq}",
                          "0 is good, 1 to 124 bad, 125 not known; try it by hand on an image of that moment")

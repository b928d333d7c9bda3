"""The probes of a bisection: a command run on a throw-away writable image of a moment, over NBD.

The image is one of the volume's server; where there is none, one is started for as long as the search takes. Whatever
happens, images that were made are deleted.
Threading: probe() from several threads.
"""
from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from cdp.moments.bisection import BAD, GOOD, SKIP
from cdp.service.connect import connect, find_server
from cdp.service.locate import Location
from cdp.settings import Settings
from cdpcore.base.errors import InvalidRequest, RefusedPoint, Unavailable

CANNOT_TELL = 125       # as git bisect run has it; less, but not 0: bad
START_S, END_S = 30.0, 30.0


def ready_made(test: tuple[str, ...], fsck: bool, path: str | None, sha256: str | None) -> list[str]:
    """The command to run. Raises InvalidRequest where there is none, or more than one."""
    if bool(test) + fsck + (path is not None) != 1:
        raise InvalidRequest("what tells good from bad is one of: a command, --fsck, --file",
                             "write, for instance, -- ./check {uri}")
    if (path is None) != (sha256 is None):
        raise InvalidRequest("--file and --sha256 go together", "give both")
    if test:
        return list(test)
    ours = [sys.executable, "-m", "cdp.cli.ext4_probe", "{uri}"]
    return [*ours, "fsck"] if fsck else [*ours, "file", str(path), str(sha256).lower()]


class Probes:
    """A context manager."""

    def __init__(self, location: Location, settings: Settings, argv: list[str]):
        self._location, self._settings, self._argv = location, settings, argv
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with self._stack:
            remote = find_server(self._location)
            if remote is None:
                self._serve()
            else:
                remote.close()
            with connect(self._location, self._settings) as service:
                served = service.info()["served"]
            assert served is not None
            if not (uris := [uri for uri in served["uris"] if uri.startswith("nbd+unix:")] or served["uris"]):
                raise Unavailable(f"{self._location.text}: its server has no NBD address", "serve it on one")
            self._uri = uris[0]
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def _serve(self) -> None:
        """A server of our own."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="cdp-bisect-"))
        server = subprocess.Popen(
            [sys.executable, "-m", "cdp", "serve", self._location.root, "--unix", f"{folder}/nbd",
             "--admin-socket", f"{folder}/admin", "--log-format", "text"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True)
        self._stack.callback(_end, server)
        assert server.stderr is not None
        said = ""
        for line in server.stderr:
            said = line
            if line == "cdp: ready\n":
                return
        raise Unavailable(f"{self._location.text} cannot be served: {said.strip()}", "serve it, then repeat")

    def probe(self, seq: int) -> str:
        """GOOD, BAD or SKIP. Raises Unavailable where the command ended in another way."""
        name = f"bisect-{os.getpid()}-{next(self._numbers)}"
        with connect(self._location, self._settings) as service:
            try:
                service.create_image(name, at=f"#{seq}")
            except RefusedPoint:
                return SKIP     # of history that was freed
            try:
                return self._run(seq, self._image_uri(name))
            finally:
                service.delete_image(name)

    def _image_uri(self, name: str) -> str:
        head, question, query = self._uri.partition("?")
        return f"{'/'.join((head, *self._location.images, name))}{question}{query}"

    def _run(self, seq: int, uri: str) -> str:
        argv = [arg.replace("{uri}", uri) for arg in self._argv]
        try:
            done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=2,
                                  env={**os.environ, "CDP_URI": uri, "CDP_SEQ": str(seq)})
        except OSError as error:
            raise InvalidRequest(f"{argv[0]}: {error.strerror}", "give a command that can be run") from None
        if done.returncode in (0, CANNOT_TELL):
            return SKIP if done.returncode else GOOD
        if 0 < done.returncode < CANNOT_TELL:
            return BAD
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise Unavailable(f"the command ended with {how} at #{seq}",
                          "0 is good, 1 to 124 bad, 125 not known; try it by hand on an image of that moment")


def _end(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.communicate()

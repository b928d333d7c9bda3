"""shell: look at a moment, mounted or over NBD; nothing of it stays."""
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, note
from cdp.cli.explain import moment_text
from cdp.cli.files import partition_option
from cdp.cli.orphans import adopt_orphans, children_of
from cdp.cli.refs import volume_and_point
from cdp.ipc.stop_signals import stop_on_signal
from cdpcore.base.errors import InvalidRequest

END_S = 5.0


@command(cli, "shell", examples=[
    ("cdp shell web@-10m", "a shell in the files of ten minutes ago (as root; else with an NBD export)"),
    ("cdp shell web@before-upgrade -- sh -c 'diff -r . /srv'", "run a command in them"),
    ("cdp shell web@-1d --no-mount -- sh -c 'qemu-img info $CDP_URI'", "over NBD only"),
], exit_codes=WRITE_EXITS, context_settings={"ignore_unknown_options": True})
@click.argument("volume_at_point", metavar="VOLUME[@POINT]")
@click.argument("argv", metavar="[-- COMMAND [ARG...]]", nargs=-1, type=click.UNPROCESSED)
@click.option("--no-mount", is_flag=True, help="Only the NBD export; default where it cannot be mounted: not root.")
@partition_option
def shell(state: State, volume_at_point: str, argv: tuple[str, ...], no_mount: bool, partition: int | None) -> None:
    """Look at a moment in a shell, and leave nothing.

    The moment is a writable image of its own: what is written to it changes nothing in the volume. As root it is
    mounted (nbdfuse, a loop device, mount), the shell begins in its folder, and $CDP_DIR names that; $CDP_URI is its
    NBD export and $CDP_SEQ its record. {dir} and {uri} stand for them in the arguments of COMMAND. When the shell or
    COMMAND ends, or SIGTERM, SIGHUP or SIGINT ends this program, what it started is ended, and the mount and the image
    are taken away. The exit status is that of COMMAND. Mounting lets the kernel read the file system: where that may be
    hostile, use 'cdp files' and 'cdp cat'.
    """
    location, point = volume_and_point(volume_at_point, "shell", default="now")
    from cdp.cli.mounting import lacks, mounted
    from cdp.cli.throw_away import ThrowAway
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        moment = service.explain(point)["resolved"]
    if not no_mount and (why := lacks()):
        note(f"not mounted: {why}; the moment is at $CDP_URI")
        no_mount = True
    children = _Children()
    with stop_on_signal(children.stop):
        try:
            with ExitStack() as stack:
                try:
                    images = stack.enter_context(ThrowAway(location, state.settings, "shell"))
                    uri = stack.enter_context(images.image(moment["seq"]))
                    folder = None if no_mount else stack.enter_context(mounted(uri, partition))
                    if not argv:
                        note(f"{moment_text(moment)}{'' if folder is None else f', in {folder}'}; 'exit' leaves it")
                    status = children.run(argv, uri, folder, moment["seq"])
                finally:
                    children.leaving = True
        except _Stopped:
            raise KeyboardInterrupt from None
    raise click.exceptions.Exit(status)


class _Stopped(BaseException):
    """A signal asks this program to end."""


class _Children:
    """What was started for the user, with all that it starts in its turn. Main thread."""

    def __init__(self) -> None:
        self.leaving = False
        self._ours: set[int] = set()

    def stop(self) -> None:
        """In a signal handler."""
        if not self.leaving:
            self.leaving = True
            raise _Stopped

    def run(self, argv: Sequence[str], uri: str, folder: str | None, seq: int) -> int:
        """The exit status."""
        adopt_orphans()
        self._ours = children_of({os.getpid()})     # nbdfuse, and perhaps a server
        env = {**os.environ, "CDP_URI": uri, "CDP_SEQ": str(seq), **({} if folder is None else {"CDP_DIR": folder})}
        words = [arg.replace("{uri}", uri).replace("{dir}", folder or "{dir}") for arg in argv]
        words = words or [os.environ.get("SHELL") or "/bin/sh"]
        try:
            process = subprocess.Popen(words, env=env, cwd=folder)
        except OSError as error:
            raise InvalidRequest(f"{words[0]}: {error.strerror}", "give a command that can be run") from None
        try:
            status = process.wait()
        finally:
            self.leaving = True
            self._end_all()
        return status if status >= 0 else 128 - status

    def _end_all(self) -> None:
        """All that are left. (A shell that asks for commands ends by SIGHUP, not by SIGTERM.)"""
        for number, patience_s in ((signal.SIGHUP, 0.0), (signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
            for pid in self._left():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                    os.kill(pid, signal.SIGCONT)
            until_s = time.monotonic() + patience_s
            while self._left() and time.monotonic() < until_s:
                time.sleep(0.02)

    def _left(self) -> set[int]:
        found: set[int] = set()
        new = children_of({os.getpid()}) - self._ours
        while new:
            found |= new
            new = children_of(new) - found
        return found

"""How the demo talks: numbered steps, the commands it runs with their real output, and claims that are counted.

A claim is printed only with its verdict; one that is false makes `failed` non-zero, and with it the demo's exit status.
One thread.
"""
from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

import cdp

# The folders of administrators' tools are not on an ordinary user's PATH everywhere.
TOOL_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class Failed(Exception):
    """A command of the demo did not do what it must; str() says which and how."""


class Teller:
    """Prints the story to standard output."""

    def __init__(self, directory: str, steps: int):
        self.directory = directory
        self.proved = self.failed = 0
        self._steps = steps
        self._step = 0
        self._began_s = time.monotonic()
        self._fancy = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._environ = plain_environ()

    def has(self, tool: str) -> bool:
        """Whether a program is installed."""
        return shutil.which(tool, path=TOOL_PATH) is not None

    def step(self, title: str, *lines: str) -> None:
        self._step += 1
        click.echo()
        click.secho(f"[{self._step}/{self._steps}] {title}", bold=True, nl=False)
        click.secho(f"   ({self.seconds():.1f} s)", dim=True)
        for line in lines:
            self.say(line)

    def seconds(self) -> float:
        return time.monotonic() - self._began_s

    def say(self, text: str) -> None:
        click.echo(f"  {text}")

    def claim(self, text: str, is_true: bool) -> None:
        """Something that was checked just now."""
        if is_true:
            self.proved += 1
            click.secho(f"  {'✓' if self._fancy else 'ok:'} {text}", fg="green")
        else:
            self.failed += 1
            click.secho(f"  {'✗' if self._fancy else 'FALSE:'} {text}", fg="red", bold=True)

    def cdp(self, *args: str) -> str:
        """Run `cdp ARGS`, show it with what it prints, and return its standard output. Raises Failed."""
        click.secho(f"  $ {shlex.join(('cdp', *args))}", fg="cyan")
        done = self.quiet(*cdp_command(*args))
        for line in (done.stdout + done.stderr).splitlines():
            click.echo(f"    {line}")
        return done.stdout

    def quiet(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the demo's directory. Raises Failed unless it exits with 0."""
        done = self.attempt(*argv)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Failed(f"{shlex.join(argv)}: exit status {done.returncode}: {said[-500:]}")
        return done

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """As quiet(), but any exit status will do."""
        return subprocess.run(argv, cwd=self.directory, env=self._environ, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", check=False)

    def start(self, argv: Sequence[str], log_fd: int) -> subprocess.Popen[bytes]:
        """Start a process in the demo's directory, away from the terminal's Ctrl-C. Its standard output is a pipe."""
        return subprocess.Popen(argv, cwd=self.directory, env=self._environ, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=log_fd, start_new_session=True)


def cdp_command(*args: str) -> tuple[str, ...]:
    """The command line `cdp ARGS` of this very installation."""
    return (sys.executable, "-m", "cdp", *args)


def plain_environ() -> Mapping[str, str]:
    """The environment without settings of cdp, with messages of tools in English, and with this very package first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDP_")}
    packages = os.pathsep.join(filter(None, (str(Path(cdp.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    return {**kept, "PATH": TOOL_PATH, "PYTHONPATH": packages, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


def listing(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"

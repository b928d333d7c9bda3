"""Starts of `python -m cdp ARGS` and `python -c CODE ARGS` by the tests: warm, by a host that has loaded cdp
(warm_host), or cold, for real.

What a test starts is a process of its own either way, and a child of the process of the tests: with its arguments,
environment, directory, files, signals and exit status. Not the same: /proc/PID/cmdline and environ, what is imported
when it begins, the memory that it has then, and how long it takes to begin. A test of these has the mark `cold`, or
starts Python with other arguments. All is cold with --cold, in `make soak` and in `.ci/run`, and where the host cannot
do what is asked.
"""
from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.warm_host import ABOVE, CALLS, MOST_FILES, REQUEST_BYTES

HOST = Path(__file__).with_name("warm_host.py")
MOST_HOSTS = 2
WORTH = 3               # a host loads for a second: for the third start that is like others
# Variables that Python, the C library or the loader reads when a process begins.
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")
# Signals that stay ignored in what is started, if they are (Popen sets the action of the others).
IGNORED = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


class Host(subprocess.Popen[bytes]):
    """Not what a test starts, though it begins in one (children.py)."""


class Hosts:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[tuple[object, ...], tuple[Host, socket.socket] | None] = {}
        self._asked = Counter[tuple[object, ...]]()
        self.warm = True
        self.started = 0

    def start(self, args: list[str], env: dict[str, str], cwd: str, files: dict[int, int]) -> int | None:
        """The process id of `python ARGS`, whose file N is files[N] here; None: start it for real."""
        request = json.dumps({"args": args, "env": env, "cwd": cwd, "numbers": list(files)}).encode()
        if (len(request) > REQUEST_BYTES or len(files) > MOST_FILES or max(files) >= ABOVE or not os.path.isdir(cwd)
                or "LD_PRELOAD" in env):        # the sanitizers' want to see each clone()
            return None
        with self._lock:
            host = self._host(env)
            if host is None:
                return None
            try:
                socket.send_fds(host, [request], list(files.values()))
                pid = int(host.recv(64) or 0)
            except ConnectionError:     # it was killed
                return None
            self.started += 1
            return pid or None

    def _host(self, env: dict[str, str]) -> socket.socket | None:
        """The host whose process began as this one would: with the same limits, rights, signals and variables."""
        at_start = {name: value for name, value in env.items() if name.startswith(AT_START)}
        key = (os.getpid(), *sorted(at_start.items()), *map(resource.getrlimit, LIMITS), os.getresuid(), os.getresgid(),
               *(number for number in IGNORED if signal.getsignal(number) == signal.SIG_IGN),
               "blocked", *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self._asked[key] += 1
        if key not in self._hosts and len(self._hosts) < MOST_HOSTS and self._asked[key] >= WORTH:
            self._hosts[key] = self._new(env)
        host = self._hosts.get(key)
        return host[1] if host else None

    def _new(self, env: dict[str, str]) -> tuple[Host, socket.socket] | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = Host([sys.executable, str(HOST), str(theirs.fileno())], env=env, cwd="/",
                           pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        if ours.recv(64) == b"ready":
            return process, ours
        ours.close()
        process.wait()
        return None

    def close(self) -> None:
        for host in filter(None, self._hosts.values()):
            host[1].close()
            host[0].wait()
        self._hosts.clear()


hosts = Hosts()
_start_for_real = subprocess.Popen._execute_child       # type: ignore[attr-defined]


def _execute_child(self: Any, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                   env: Any, startupinfo: Any, creationflags: Any, shell: bool, p2cread: int, p2cwrite: int,
                   c2pread: int, c2pwrite: int, errread: int, errwrite: int, *others: Any) -> None:
    """subprocess.Popen's, which is private: where Python's is another one day, what follows `others` is checked."""
    pid = None
    # restore_signals, gid, gids, uid, umask, start_new_session, process_group, as they are if not given
    plain = others == (True, None, None, None, -1, False, -1) and close_fds and not shell
    if hosts.warm and plain and executable is None and preexec_fn is None and isinstance(args, (list, tuple)):
        argv = [os.fsdecode(arg) for arg in args]
        if argv[:3] == [sys.executable, "-m", "cdp"] or argv[:2] == [sys.executable, "-c"]:
            variables = {os.fsdecode(name): os.fsdecode(value) for name, value in (env or os.environ).items()}
            files = {number: fd if fd >= 0 else number for number, fd in enumerate((p2cread, c2pwrite, errwrite))}
            pid = hosts.start(argv[1:], variables, os.path.abspath(os.fsdecode(cwd or ".")),
                              files | {fd: fd for fd in pass_fds})
    if pid is None:
        return _start_for_real(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
                               creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others)
    self.pid, self._child_created = pid, True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("cdp").addoption("--cold", action="store_true",
                                     help="start every process for real, none by one that has loaded cdp")


def pytest_configure(config: pytest.Config) -> None:
    hosts.warm = sys.platform == "linux" and os.uname().machine in CALLS and not config.getoption("--cold")
    subprocess.Popen._execute_child = _execute_child    # type: ignore[attr-defined]


def pytest_unconfigure() -> None:
    subprocess.Popen._execute_child = _start_for_real   # type: ignore[attr-defined]
    hosts.close()


@pytest.fixture(autouse=True)
def warm_or_cold(request: pytest.FixtureRequest) -> Iterator[None]:
    """The mark `cold`."""
    before = hosts.warm
    hosts.warm = before and request.node.get_closest_marker("cold") is None
    yield
    hosts.warm = before

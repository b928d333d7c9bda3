"""A process that has loaded what commands of cdp load, and becomes `python -m cdp ARGS`, or `python -c CODE ARGS`, once
for each request: it clones itself, as a child of the process of the tests, which waits for it and signals it like any
process that it started. The other half, and what must be started for real: warm.

Run as a program, with the number of the socket that requests come by. Linux alone: what a raw clone() leaves to glibc's
fork() is put right here, and where that cannot be done the host ends, so that all is started for real.
"""
from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import platform
import runpy
import signal
import socket
import sys
import tempfile
import time
import types

REQUEST_BYTES = 1 << 17
MOST_FILES = 64
ABOVE = 512             # file numbers that no request asks for

CLONE_PARENT = 0x8000
# clone(), get_robust_list(), set_robust_list()
CALLS = {"x86_64": (56, 274, 273), "aarch64": (220, 100, 99)}
ROBUST_HEAD_BYTES = 24
TID_BEFORE_HEAD_BYTES = 16      # glibc's struct pthread: tid, a number that is not used, robust_prev, robust_head

# Not loaded: packages whose imports start threads (polars, obstore), and what few tests start.
LEFT_OUT = ("archive", "bench", "conformance", "demo", "replay", "trace")


class Cloning:
    """clone() with CLONE_PARENT. The child is left as fork() of Python and of glibc leave it: with its own thread id,
    and the list of robust locks by which the kernel frees those of a process that is killed (LMDB has such)."""

    def __init__(self) -> None:
        self._clone, get_list, self._set_list = CALLS[platform.machine()]
        self._call = ctypes.PyDLL(None, use_errno=True).syscall     # keeps the GIL
        self._call.restype = ctypes.c_long
        self._call.argtypes = [ctypes.c_long] * 6
        head, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._call(get_list, 0, ctypes.addressof(head), ctypes.addressof(size), 0, 0)
        assert head.value and size.value == ROBUST_HEAD_BYTES
        self._head = head.value
        self._tid = ctypes.c_int.from_address(self._head - TID_BEFORE_HEAD_BYTES)
        assert self._tid.value == os.getpid() and len(os.listdir("/proc/self/task")) == 1

    def __call__(self) -> int:
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = self._call(self._clone, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
            return pid
        self._tid.value = os.getpid()
        self._call(self._set_list, self._head, ROBUST_HEAD_BYTES, 0, 0, 0)
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0


def load() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"    # as cdp.__main__
    import cdp

    for module in pkgutil.walk_packages(cdp.__path__, "cdp."):
        path = module.name.split(".")
        if path[-1] != "__main__" and path[1] not in LEFT_OUT:
            importlib.import_module(module.name)


def receive(requests: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """A request, and the files that came with it; None: the tests are over."""
    data, control, _, _ = requests.recvmsg(REQUEST_BYTES, socket.CMSG_LEN(MOST_FILES * 4))
    files = array.array("i")
    for _, _, piece in control:
        files.frombytes(piece[:len(piece) - len(piece) % files.itemsize])
    return (json.loads(data), list(files)) if data else None


def stream(fd: int, name: str, like: object) -> object:
    """sys.stdin, sys.stdout or sys.stderr, as Python makes it."""
    mode = "w" if fd else "r"
    made = open(fd, mode, buffering=1 if fd == 2 else -1, encoding=like.encoding, errors=like.errors,  # noqa: SIM115
                newline="\n", closefd=False)
    made.buffer.raw.name = f"<{name}>"
    return made


def become(request: dict[str, object], files: list[int]) -> None:
    """The process that was asked for, but for the program."""
    held = [fcntl.fcntl(fd, fcntl.F_DUPFD, ABOVE) for fd in files]
    os.closerange(3, ABOVE)
    for fd, number in zip(held, request["numbers"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    tempfile.tempdir = None
    sys.orig_argv = [sys.executable, *request["args"]]
    sys.argv = [request["args"][0], *request["args"][2:]]
    sys.path[0] = os.getcwd() if sys.argv[0] == "-m" else ""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        made = stream(fd, name, getattr(sys, name))
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def run(how: str, what: str) -> None:
    if how == "-m":
        runpy._run_module_as_main(what)
    else:
        sys.modules["__main__"] = code
        exec(compile(what, "<string>", "exec", dont_inherit=True), code.__dict__)     # noqa: S102


def serve(requests: socket.socket) -> tuple[str, str] | None:
    """Answer requests with process ids, until the tests are over; in each process that is started: what it is to
    run."""
    clone = Cloning()
    gc.collect()
    gc.freeze()         # else each child's first collection copies all that is loaded here
    requests.send(b"ready")
    while (asked := receive(requests)) is not None:
        request, files = asked
        pid = clone()
        if not pid:
            requests.close()
            become(request, files)
            how, what, *_ = request["args"]
            return how, what
        requests.send(b"%d" % pid)
        for fd in files:
            os.close(fd)
    return None


status: int | None = None       # of the program, when it is known
code = types.ModuleType("__main__")     # that of `python -c`


def end() -> None:
    """What is left when threads have ended and atexit's functions were called, less the taking apart of a thousand
    modules, which takes longer than most commands. Where something is odd Python goes on with it."""
    if status is not None:
        code.__dict__.clear()
        gc.collect()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            with contextlib.suppress(OSError):      # Python's own has dropped by now what nobody reads
                sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    atexit.register(end)        # the first, so it is called last
    load()
    program = None
    with contextlib.suppress(ConnectionError):
        program = serve(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        try:
            run(*program)
            status = 0
        except SystemExit as e:
            if e.code is None or isinstance(e.code, int):
                status = (e.code or 0) & 0xff
            raise

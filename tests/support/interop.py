"""What the interop tests share: real tools, a real `cdp serve` process, and the commands of `cdp`.

A tool that is missing skips the test with the reason "needs TOOL"; with CI=true in the environment it fails it, because
there everything is installed (.ci/run). What a machine's kernel or user cannot do skips with another reason.
"""
import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

import cdp
from cdp.cli import cli

MIB = 1 << 20
# mke2fs, losetup and mount are not on every user's PATH.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
READY_SECONDS = 60.0
STOP_SECONDS = 60.0


def need(*tools):
    """Skip (or under CI fail) the test unless all these programs are installed."""
    for tool in tools:
        if shutil.which(tool, path=PATH) is None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {tool}")


def wait(ready, process):
    """Return when `ready()` is true; the process that is to make it so must be running."""
    for _ in range(1000):
        if ready():
            return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError(f"{process.args[0]} does not come up")


def environ():
    """The environment of what is started here: this very package, no settings of cdp, messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDP_")}
    packages = os.pathsep.join(filter(None, (str(Path(cdp.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    return {**kept, "PATH": PATH, "PYTHONPATH": packages, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


class Started(subprocess.Popen):
    """As a context: killed where its body fails. Popen's waits for a process that nobody ends any more."""

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


def run(*argv, cwd=None, status=0, timeout_s=240):
    """Run a program that must end with `status` (None: any); the finished process, its output as text."""
    argv = [str(arg) for arg in argv]
    done = subprocess.run(argv, cwd=cwd, env=environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=timeout_s, check=False)
    if status is not None:
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == status, f"{' '.join(argv)}: {done.returncode}\n{said}"
    return done


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cdp_argv(*args):
    return [sys.executable, "-m", "cdp", *map(str, args)]


def cdp_done(*args, cwd=None, status=0):
    """Run `cdp ARGS` in this process, whose start would take most of its time; as run() of cdp_argv()."""
    args = [str(arg) for arg in args]
    with contextlib.chdir(cwd or "."):
        done = CliRunner().invoke(cli, args, prog_name="cdp")
    if status is not None:
        assert done.exit_code == status, f"cdp {' '.join(args)}: {done.exit_code}\n{done.output[-3000:]}"
    return subprocess.CompletedProcess(["cdp", *args], done.exit_code, done.stdout, done.stderr)


def cdp_here(*args, cwd=None, status=0):
    """The standard output of cdp_done()."""
    return cdp_done(*args, cwd=cwd, status=status).stdout


class World:
    """A directory with volumes, and at most one server for them. Sockets go to a directory with a short path."""

    def __init__(self, path, kind="after"):
        self.path, self.kind = Path(path), kind
        self.sockets = Path(tempfile.mkdtemp(prefix="cdp-t"))
        self.socket = self.sockets / "nbd.sock"
        self.log = self.path / "serve.log"
        self.server = None
        self.printed = []

    def cdp(self, *args, status=0):
        """cdp_here(), in the directory."""
        return cdp_here(*args, cwd=self.path, status=status)

    def json(self, *args):
        text = self.cdp(*args, "--json")
        return [json.loads(line) for line in text.splitlines()] if args[0] == "records" else json.loads(text)

    def create(self, name, size_mib):
        """A volume of the world's kind; of before-images: with an empty disk NAME.img in place."""
        if self.kind == "after":
            self.cdp("create", name, "--size", f"{size_mib}M")
            return
        with (self.path / f"{name}.img").open("xb") as disk:
            disk.truncate(size_mib * MIB)
        self.cdp("create", name, "--mode", "before", "--base", f"{name}.img")

    def serve(self, *args):
        """Start `cdp serve ARGS`, on the unix socket unless an address is among them."""
        if not any(arg in ("--unix", "--tcp") for arg in args):
            args = (*args, "--unix", self.socket)
        if "--admin-socket" not in args:
            args = (*args, "--admin-socket", self.sockets / "admin.sock")
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(cdp_argv("serve", *args), cwd=self.path, env=environ(), text=True,
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        deadline_s = time.monotonic() + READY_SECONDS
        while "cdp: ready" not in self.log.read_text():
            assert self.server.poll() is None and time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.02)
        os.set_blocking(self.server.stdout.fileno(), False)
        self.printed = self.server.stdout.read().split()

    def uri(self, export):
        """The URI of any export on the unix socket."""
        return f"nbd+unix:///{quote(export, safe='@/:')}?socket={self.socket}"

    def stop(self):
        """SIGTERM, which must end it with status 0."""
        server, self.server = self.server, None
        server.send_signal(signal.SIGTERM)
        status = server.wait(STOP_SECONDS)
        server.stdout.close()
        assert status == 0, self.log.read_text()[-3000:]
        assert "Traceback" not in self.log.read_text()

    def kill(self):
        server, self.server = self.server, None
        server.kill()
        server.wait(STOP_SECONDS)
        server.stdout.close()

    def close(self):
        if self.server is not None:
            self.kill()
        shutil.rmtree(self.sockets)

    def ext4(self, name, size_mib=64, files_bytes=16 * MIB):
        """An ext4 image with files of Python's own library, the same one for all tests; the file's path. Needs
        mke2fs."""
        image = self.path / name
        run("cp", "--sparse=always", ext4_image(size_mib, files_bytes), image)
        return image


@functools.cache
def ext4_image(size_mib, files_bytes):
    folder = Path(tempfile.mkdtemp(prefix="cdp-t"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tree, image = folder / "tree", folder / "image"
    for inside, source in library_files(files_bytes):
        target = tree / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, image, f"{size_mib}m")
    shutil.rmtree(tree)
    return image


def library_files(limit_bytes):
    from cdp.demo.disk import real_files

    found = real_files(limit_bytes)
    assert found, "Python's library has no source files here"
    return found


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["after", "before"])
def both(request, tmp_path):
    """A world whose volumes are of one kind, then of the other."""
    made = World(tmp_path, request.param)
    yield made
    made.close()

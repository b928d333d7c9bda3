"""Ctrl-C at any moment of a command: one line or nothing, never a traceback; status 130, or that of a server that was
told to stop."""
import re
import signal
import subprocess
import sys
import time

import pytest
from support.interop import Started

import cdp

pytestmark = pytest.mark.cold

# Says so when loading begins: what Python itself does before cannot be helped. SIGINT is as argv says, however the
# tests were started.
BEGUN = """
import signal, sys
signal.signal(signal.SIGINT, getattr(signal, sys.argv.pop(1)))
sys.addaudithook(lambda event, args: print(flush=True) if event == "import" and args[0] == "cdp.cli" else None)
from cdp.__main__ import main
sys.argv[0] = "cdp"
main()
"""
# Interrupted after all that main() did, in the interpreter's shutdown: by an object that a module keeps to its end.
ENDING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from cdp.__main__ import main
class Last:
    def __del__(self, kill=os.kill, number=signal.SIGINT, pid=os.getpid()):
        kill(pid, number)
sys.last = Last()
sys.argv[0] = "cdp"
main()
"""
# Interrupted in an import of a command that has something to take back.
LATE = """
import os, signal, sys
import cdp.cli.info
from cdp.__main__ import main
from cdp.cli import cli
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "late":
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
sys.meta_path.insert(0, Finder())
def begin(*args, **how):
    try:
        try:
            import late
        except ImportError:
            pass
        while True:
            pass
    finally:
        print("taken back", flush=True)
cli.get_command(None, "info").callback = begin
sys.argv[0] = "cdp"
main()
"""
DELAYS_MS = (0, 5, 15, 30, 50, 80, 110, 140, 180, 220, 260, 320)


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    cdp.create(tmp_path / "web", size=1 << 20).close()
    return tmp_path / "web"


def interrupted(verb, web, delay_ms, disposition):
    """Status and standard error of `cdp VERB WEB`, interrupted `delay_ms` after it began to load."""
    with Started([sys.executable, "-c", BEGUN, disposition, verb, web], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True) as process:
        process.stdout.readline()
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def test_an_interrupt_in_a_late_import_lets_a_command_take_back_what_it_began(web):
    done = subprocess.run([sys.executable, "-c", LATE, "info", web], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "taken back\n", "cdp: error: interrupted\n")


@pytest.mark.parametrize("verb", ["serve", "info"])
@pytest.mark.soak
def test_an_interrupt_while_it_loads_is_one_line(web, verb, seeds):
    seen = []
    for delay_ms in DELAYS_MS[::seeds.pick(2, 1)]:
        status, stderr = interrupted(verb, web, delay_ms, "default_int_handler")
        assert status in (0, 130, -signal.SIGINT) and "Traceback" not in stderr and "ignored" not in stderr, (
            delay_ms,
            stderr,
        )
        if status == 130:
            assert stderr == "cdp: error: interrupted\n", delay_ms
        seen.append(status)
    assert 130 in seen


@pytest.mark.parametrize("delay_ms", DELAYS_MS[::4])
def test_a_background_job_of_a_shell(web, delay_ms):
    """Such a job is started with SIGINT ignored: a command goes on; a server stops, also by one that came while it was
    loaded."""
    assert interrupted("info", web, delay_ms, "SIG_IGN") == (0, "")
    status, stderr = interrupted("serve", web, delay_ms, "SIG_IGN")
    assert status == 0 and "stopping" in stderr


def test_a_background_job_that_ends(web):
    """The interpreter sets the default action for a signal that has a handler, at the end."""
    done = subprocess.run([sys.executable, "-c", ENDING, "info", web], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_that_a_background_job_runs(web, tmp_path, monkeypatch):
    """... are its job's: they ignore SIGINT too."""
    tool = tmp_path / "bin/qemu-img"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ngrep SigIgn /proc/$$/status >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    done = subprocess.run([sys.executable, "-c", BEGUN, "SIG_IGN", "export", web, tmp_path / "web.qcow2", "--format",
                           "qcow2"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 8, done.stderr
    ignored = int(re.search("SigIgn:\\s*([0-9a-f]+)", done.stderr)[1], 16)
    assert ignored >> (signal.SIGINT - 1) & 1


def test_an_interrupt_after_loading_is_one_line(web):
    """In the body of a command it is an exception, which click would put an empty line before."""
    code = ("import os, signal, sys, cdp.cli.refs as refs\nfrom cdp.__main__ import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "refs.locate = lambda path: os.kill(os.getpid(), signal.SIGINT)\nsys.argv[0] = 'cdp'\nmain()")
    done = subprocess.run([sys.executable, "-c", code, "info", web], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "cdp: error: interrupted\n")


def test_an_interrupt_that_python_would_only_print_ends_the_command(web):
    code = ("import os, signal, sys, cdp.cli.refs as refs\nfrom cdp.__main__ import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "class Last:\n    def __del__(self): os.kill(os.getpid(), signal.SIGINT); os.getpid()\n"
            "refs.locate = lambda path: Last() and None\nsys.argv[0] = 'cdp'\nmain()")
    done = subprocess.run([sys.executable, "-c", code, "info", web], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "cdp: error: interrupted\n")

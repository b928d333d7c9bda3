"""support.warm: what tests start warm does what it does when it is started for real."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import pytest
from support import interop, warm
from support.interop import Started

import cdp
from cdp.service.connect import connect

pytestmark = pytest.mark.once
TESTS = Path(__file__).parent


@pytest.fixture
def web(tmp_path):
    with cdp.create(tmp_path / "web", size=1 << 20) as volume:
        volume.pwrite(b"x" * 5000, 0)
    return tmp_path


@pytest.fixture(autouse=True)
def allowed(request, monkeypatch):
    """Warm starts, also with --cold."""
    monkeypatch.setattr(warm.hosts, "warm", sys.platform == "linux" and os.uname().machine in warm.CALLS
                        and "LD_PRELOAD" not in os.environ)
    monkeypatch.setattr(warm, "WORTH", 1)
    if not warm.hosts.warm:
        pytest.skip("no warm starts here")


def both(monkeypatch, start):
    """What start() returns, for a warm start and a real one."""
    before = warm.hosts.started
    first = start()
    assert warm.hosts.started == before + 1
    with monkeypatch.context() as patch:
        patch.setattr(warm.hosts, "warm", False)
        second = start()
    assert warm.hosts.started == before + 1
    return first, second


@pytest.mark.parametrize("line", ["bookmarks web --json", "records web", "info none", "nothing", "--help",
                                  "config --json", "export web - --format qcow2", "bookmark web ä/ü", "diff web @#1",
                                  "export web -"])
def test_the_same_is_printed(web, monkeypatch, line):
    def start():
        done = subprocess.run(interop.cdp_argv(*line.split()), cwd=web, capture_output=True, timeout=60, check=False,
                              env=interop.environ() | {"CDP_LOG_LEVEL": "warning"})
        return done.returncode, done.stdout, done.stderr

    first, second = both(monkeypatch, start)
    assert first == second and any(first[1:])


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@pytest.mark.parametrize("line", ["records web", "info none", "--help"])
def test_nobody_reads(web, monkeypatch, line, closed):
    def start():
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(interop.cdp_argv(*line.split()), cwd=web, env=interop.environ(), timeout=60,
                                  check=False, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} |
                                  {closed: writer})
        finally:
            os.close(writer)
        return done.returncode, done.stdout, done.stderr

    first, second = both(monkeypatch, start)
    assert first == second


def test_a_file_that_is_passed_on(web, monkeypatch):
    def start():
        with open(web / "out", "wb") as out:
            subprocess.run(interop.cdp_argv("export", "web", "-"), cwd=web, env=interop.environ(), stdout=out,
                           pass_fds=[out.fileno()], timeout=60, check=True)
        return (web / "out").read_bytes()

    first, second = both(monkeypatch, start)
    assert first == second and first.startswith(b"x" * 5000) and len(first) == 1 << 20


def seen(pid):
    """What the kernel knows of a process, less its numbers and what it takes; of one that does not change just now."""
    before = None
    for _ in range(1000):
        with contextlib.suppress(FileNotFoundError):    # closed since it was listed
            if (now := glimpse(pid)) == before:
                return now
            before = now
        time.sleep(0.05)
    pytest.fail(f"it does not come to rest: {before}")


def glimpse(pid):
    process = Path(f"/proc/{pid}")
    kept = re.findall(r"^((?:Umask|PPid|[UG]id|Groups|Sig\w+|Shd\w+|Cap\w+|NoNewPrivs|Seccomp|Cpus_allowed):.*)",
                      (process / "status").read_text(), re.MULTILINE)
    kept = [line for line in kept if not line.startswith("SigQ")]
    files = sorted(re.sub(r"\d+", "N", os.readlink(file)) for file in (process / "fd").iterdir())
    return (kept, files, (process / "limits").read_text(), os.readlink(process / "cwd"), os.getpgid(pid),
            os.getsid(pid), os.getpriority(os.PRIO_PROCESS, pid))


@pytest.mark.parametrize("number", [
    signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGINT, signal.SIGKILL))])
def test_a_process_as_any_other(web, monkeypatch, number):
    def start():
        with Started([*interop.cdp_argv("serve", "web", "--unix", "s", "--admin-socket", "a")], cwd=web,
                     env=interop.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE, text=True) as server:
            assert any("ready" in line for line in server.stderr)
            with connect(str(web / "web")) as service:
                service.window()        # what answers is loaded behind "ready"
            kernel = seen(server.pid)
            server.send_signal(number)
            printed = server.communicate(timeout=60)[0]
            return kernel, server.returncode, printed

    first, second = both(monkeypatch, start)
    assert first == second
    assert f"PPid:\t{os.getpid()}" in first[0][0] and first[1] == (-9 if number == signal.SIGKILL else 0)


HELD = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import lmdb
from support.warm_host import Cloning
clone = Cloning()
pid = clone()
if pid:
    print(pid)
else:
    assert os.stat("/proc/thread-self").st_ino and clone._tid.value == os.getpid()
    held = lmdb.open(sys.argv[1]).begin(write=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
TAKEN = "import lmdb, sys; lmdb.open(sys.argv[1]).begin(write=True).abort()"


def test_a_lock_of_a_process_that_is_killed_is_free(tmp_path):
    """The kernel knows which locks a process holds, though glibc did not see it begin."""
    with lmdb.open(str(tmp_path)):      # else who opens it next makes the locks anew
        done = subprocess.run([sys.executable, "-c", HELD, tmp_path, TESTS], env=interop.environ(),
                              capture_output=True, text=True, check=True, timeout=60)
        assert os.waitpid(int(done.stdout), 0)[1] == signal.SIGKILL
        subprocess.run([sys.executable, "-c", TAKEN, tmp_path], env=interop.environ(), check=True, timeout=60)


def test_a_signal_that_is_ignored(web):
    """By what is started too, though a host began before it was."""
    def start(action):
        before = signal.signal(signal.SIGHUP, action)
        try:
            process = Started(interop.cdp_argv("import", "-", "new"), cwd=web, env=interop.environ(),
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        finally:
            signal.signal(signal.SIGHUP, before)
        with process:
            mask = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1]
            process.kill()
        return bool(int(mask, 16) & 1 << signal.SIGHUP - 1)

    assert (start(signal.SIG_DFL), start(signal.SIG_IGN), start(signal.SIG_DFL)) == (False, True, False)


@pytest.mark.parametrize("how", [{"process_group": 0}, {"start_new_session": True}, {"umask": 0o77},
                                 {"preexec_fn": os.getpid}, {"close_fds": False}])
def test_what_is_started_for_real(web, how):
    before = warm.hosts.started
    subprocess.run(interop.cdp_argv("info", "web"), cwd=web, env=interop.environ(), check=True, timeout=60,
                   stdout=subprocess.DEVNULL, **how)
    assert warm.hosts.started == before


def test_the_host_was_killed(web):
    """The next start is a real one."""
    own = warm.Hosts()
    try:
        env = interop.environ()
        files = {0: 0, 1: 1, 2: 2}
        pid = own.start(["-m", "cdp", "info", "none"], env, str(web), files)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        ((process, _),) = own._hosts.values()
        process.kill()
        process.wait()
        assert own.start(["-m", "cdp", "info", "none"], env, str(web), files) is None
    finally:
        own.close()

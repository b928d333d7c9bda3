"""support.children: no process that a test started is there when the tests have ended."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import interop
from support.interop import Started

pytestmark = pytest.mark.once

TESTS = """
import os, subprocess, sys, time
from pathlib import Path
import pytest

def sleeper(name):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    Path(name).write_text(str(process.pid))
    return process

@pytest.fixture(scope="module")
def servers():
    yield (running := [sleeper("first")])
    for process in running:
        assert process.poll() is None
        process.kill()
        process.wait()

def test_that_fails(servers):
    sleeper("failed")
    assert False

def test_that_passes(servers):
    servers.append(sleeper("second"))

def test_what_the_others_left(servers):
    assert not Path("/proc", Path("failed").read_text()).exists()

def test_the_last():
    sleeper("last")
    time.sleep(float(os.environ["SECONDS"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("seconds", [0, 300], ids=["to the end", "interrupted"])
def test_what_tests_leave_running_is_ended(tmp_path, seconds):
    last = tmp_path / "last"
    (tmp_path / "test_some.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "support.children", "--rootdir=."]
    env = interop.environ() | {"SECONDS": str(seconds)}
    env["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), env["PYTHONPATH"]))
    with Started(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as run:
        if seconds:
            interop.wait(lambda: last.exists() and last.read_text(), run)
            run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[0]
    assert ("1 failed, 2 passed" if seconds else "1 failed, 3 passed") in said, said
    for name in ("first", "failed", "second", "last"):
        assert not Path("/proc", (tmp_path / name).read_text()).exists(), name

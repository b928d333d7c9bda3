"""Standard input, output and error may be closed: a command does its work, and nothing that is printed ends up in a
volume."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import interop

import cdp


def run_closed(path, line, closed):
    """Started by a shell, so for real."""
    quoted = " ".join(f"'{word}'" for word in interop.cdp_argv(*line.split()))
    return subprocess.run(["sh", "-c", f"{quoted} {closed}"], cwd=path, env=interop.environ(), capture_output=True,
                          text=True, timeout=60, check=False)


def run_full(path, line, stream):
    """With `stream` on a device that is full."""
    with open("/dev/full", "wb") as full:
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
        return subprocess.run(interop.cdp_argv(*line.split()), cwd=path, env=interop.environ(), text=True, timeout=60,
                              check=False, **files)


@pytest.fixture
def web(tmp_path):
    with cdp.create(tmp_path / "web", size=1 << 20) as volume:
        volume.pwrite(b"x" * 5000, 0)
    return tmp_path


@pytest.mark.parametrize("line", ["info web", "--help", "bookmark web b"])
def test_no_output(web, line):
    done = run_closed(web, line, ">&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("line", ["records web --json", "export web -"])
def test_data_that_nobody_could_get_is_an_error(web, line):
    done = run_closed(web, line, ">&-")
    assert (done.returncode, done.stdout) == (2, "") and "standard output is closed" in done.stderr


def test_nothing_is_open(web):
    """The files of the volume do not take the numbers of what is closed: what is printed would be written to them."""
    for i in range(3):
        assert run_closed(web, f"bookmark web b{i}", "<&- >&- 2>&-").returncode == 0
    assert run_closed(web, "bookmark web b0", "<&- >&- 2>&-").returncode == 2
    assert "no problems" in interop.run(*interop.cdp_argv("check", "web"), cwd=web).stdout
    with cdp.open(web / "web") as volume:
        assert volume.pread(5000, 0) == b"x" * 5000
        assert [mark.name for mark in volume.bookmarks()] == ["b0", "b1", "b2"]


def test_reader_that_leaves(web):
    """As with `| head -0`: the status says so, and nothing else is said."""
    done = run_closed(web, "records web --json", "| true")
    assert done.stderr == ""


def run_without_reader(path, line):
    """With a standard output whose reader is gone before anything is written: deterministic, unlike `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(interop.cdp_argv(*line.split()), cwd=path, env=interop.environ(), stdout=writer,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writer)


@pytest.fixture
def iolog(web):
    (web / "t.iolog").write_text("fio version 2 iolog\n/dev/x add\n/dev/x open\n/dev/x write 0 4096\n/dev/x close\n")
    return web


@pytest.mark.parametrize("line", [
    "trace info t.iolog", "trace info --json t.iolog", "trace formats", "trace convert --to csv t.iolog -",
    "trace convert --to fio t.iolog -",
    "info web", "records web --json", "export web -", "--help", "replay t.iolog --volume new --create",
])
def test_every_writer_says_that_its_reader_left(iolog, line):
    done = run_without_reader(iolog, line)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("line", ["export web -", "trace convert --to csv t.iolog -", "trace convert t.iolog -"])
def test_data_needs_an_output(iolog, line):
    done = run_closed(iolog, line, ">&-")
    assert done.returncode == 2 and done.stderr == "cdp: error: standard output is closed; write to a file or a pipe\n"


@pytest.mark.parametrize("line", ["export web -", "trace convert --to csv t.iolog -", "trace info t.iolog", "info web"])
def test_a_full_device_is_no_closed_pipe(iolog, line):
    done = run_full(iolog, line, "stdout")
    assert done.returncode == 6 and "error: standard output: No space left on device" in done.stderr


def run_without_readers(path, line):
    """As with `2>&1 | head -0`: nobody reads the output, nor what is for people."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(interop.cdp_argv(*line.split()), cwd=path, env=interop.environ(), stdout=writer,
                              stderr=writer, timeout=60, check=False).returncode
    finally:
        os.close(writer)


@pytest.mark.parametrize(("line", "status"), [
    ("nosuch", 2), ("info", 2), ("config", 2), ("info nosuch", 3), ("undo web", 4), ("trace info nosuch", 3),
    ("info web", 141), ("trace convert t.iolog -", 141), ("export web -", 141), ("trace convert t.iolog o.iolog", 0),
])
def test_the_status_does_not_depend_on_who_reads_errors(iolog, line, status):
    """An error has its status, and work that is done has been done, also where nobody hears of it."""
    assert run_without_readers(iolog, line) == status
    if status != 141:
        (iolog / "o.iolog").unlink(missing_ok=True)
        assert run_full(iolog, line, "stderr").returncode == status


def test_a_capture_outlives_the_reader_of_its_progress(web):
    """`cdp capture ... 2>&1 | tee log`, and tee ends."""
    reader, writer = os.pipe()
    os.close(reader)
    code = """
from cdp.cli.capture import Narrator
from cdp.cli.output import drop_unwritten
narrator = Narrator("web", False)
narrator.ready([])
narrator.progress({"kind": "mirror", "connections": 1, "written_bytes": 1, "note": ""})
assert narrator._last
narrator.end()
drop_unwritten()    # as the command line does at its end
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], env=interop.environ(), stderr=writer, timeout=60,
                              check=False)
    finally:
        os.close(writer)
    assert done.returncode == 0


def test_all_that_is_written_goes_one_way():
    """Commands write through cdp.cli.output, which knows what a closed pipe means. (--version is click's own.)"""
    folder = Path(cdp.__file__).parent
    files = [path for name in ("cli", "capture", "serve", "ha", "replay") for path in folder.glob(f"{name}/*.py")]
    writers = re.compile(r"click\.echo\(|(?<![\w.])print\(|sys\.std(out|err)\.(write|buffer)|click\.secho")
    found = {path.name for path in files if writers.search(path.read_text())}
    assert found <= {"output.py", "__init__.py", "reference.py"}


def test_closed_input(web):
    done = run_closed(web, "trace info -", "<&-")
    assert done.returncode == 2 and done.stderr == "cdp: error: -: empty file: expected a trace; was it stored whole?\n"

"""Platforms by name, the engine that knows none of them, a server on another platform than `local`, and the example of
docs/porting.md."""
from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cdp
from cdp.conformance import RULES
from cdp.platform import GroupName, Lun, MDPacket, Op, find, names
from cdp.platform.tsd import Tsd
from cdpcore.base.errors import InvalidRequest, NotFound

ROOT = Path(__file__).parent.parent.parent
SIZE = 4 << 20


# --- the engine knows no platform

# What a volume is made of: all of cdpcore, and these.
ENGINE = [path for package in ("moments", "store", "volume", "check")
          for path in sorted((ROOT / "src/cdp" / package).glob("*.py"))]
FRONT = {"cdp.platform", "cdp.platform.tsd", "cdp.serve.luns", "cdp.nbd", "cdp.serve.server", "cdp.conformance"}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ("cdp." if node.level else "") + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}".replace("..", ".") for alias in node.names)}
    return found


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_module_of_the_engine_imports_a_platform(path: Path):
    for name in imported(path):
        assert not any(name == front or name.startswith(front + ".") for front in FRONT), name


@pytest.mark.cold
def test_a_volume_works_without_a_platform_loaded(tmp_path: Path):
    script = """
import sys, pkgutil, importlib, cdpcore, cdp
for module in pkgutil.walk_packages(cdpcore.__path__, "cdpcore."):
    importlib.import_module(module.name)
with cdp.create(sys.argv[1], size=1 << 20) as volume:
    volume.pwrite(b"x", 0)
    volume.create_image("i")
    volume.restore("#1")
front = ("cdp.platform", "cdp.platform.tsd", "cdp.serve.luns", "cdp.nbd", "cdp.conformance")
print([name for name in sys.modules if name.startswith(front)])
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "v")], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "[]"


# --- by name

def package(folder: Path, point: str) -> None:
    """An installed distribution with a platform."""
    info = folder / "ported-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ported\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[cdp.platforms]\nported = {point}\n")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert {"local", "python"} <= set(names())
    assert all(find(name).name == name for name in ("local", "python"))
    with pytest.raises(NotFound, match="there are .*local.*docs/porting.md"):
        find("nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "nowhere_at_all:Platform")
    importlib.invalidate_caches()
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        find("ported")
    (tmp_path / "ported-1.dist-info" / "entry_points.txt").write_text("[cdp.platforms]\nported = os:getpid\n")
    with pytest.raises(InvalidRequest, match="is no PlatformImpl"):
        find("ported")
    with pytest.raises(InvalidRequest, match="unknown option 'colour'"):
        find("python").create(colour="red")


# --- the example of the documentation

def test_the_example_of_porting_is_a_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs/porting.md").read_text()
    code = re.search(r"<!-- example: mapped.py -->\n```python\n(.*?)```", text, re.DOTALL)
    point = re.search(r'```toml\n\[project.entry-points."cdp.platforms"\]\n(\w+) = "(.*?)"\n```', text)
    assert code and point
    (tmp_path / "mapped.py").write_text(code[1])
    package(tmp_path, point[2])
    entry = tmp_path / "ported-1.dist-info" / "entry_points.txt"
    entry.write_text(entry.read_text().replace("ported =", f"{point[1]} ="))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    found = find(point[1])
    for rule in RULES.values():
        rule.run(found)


# --- the TSD

def test_tsd_answers_for_a_lun_that_cannot_be_opened(tmp_path: Path):
    cdp.create(tmp_path / "good", size=SIZE).close()
    with find("python").nodes(2) as nodes, Tsd(nodes[0]) as tsd:
        luns = (Lun(1, str(tmp_path / "good")), Lun(2, str(tmp_path / "missing")))
        nodes[0].workload.assign(tsd.group, luns, deadline=time.monotonic() + 10)
        assert [lun.lun for lun in tsd.luns()] == [1]
        with pytest.raises(NotFound, match="missing"):
            tsd.volume(2)
        with pytest.raises(NotFound):
            nodes[1].open_router("lun:2")
        with pytest.raises(NotFound, match="not served here"):
            tsd.volume(3)
        with nodes[1].open_router("lun:1") as router:
            router.run(Op.FLUSH)
        answers: list[MDPacket] = []
        bad = MDPacket(Op.WRITE, 1, offset_bytes=0, length_bytes=512)      # without data
        nodes[1].source.submit(bad, answers.append, deadline=time.monotonic() + 10)
        stale = MDPacket(Op.WRITE, 1, offset_bytes=0, length_bytes=512)
        stale.add_bg(0, 9, 0, 512)                                         # a group that was never handed out
        nodes[1].source.submit(stale, answers.append, deadline=time.monotonic() + 10)
        end = time.monotonic() + 10
        while len(answers) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert [answer.status for answer in answers] == [1, 2]
        assert tsd.volume(1).window().newest.seq == 0


def test_tsd_in_shadow_mode_takes_over(tmp_path: Path):
    """Two TSDs, one volume: the second serves when the first is gone, and the client's requests wait for it."""
    cdp.create(tmp_path / "v", size=SIZE).close()
    lun = (Lun(0, str(tmp_path / "v")),)
    with find("local").nodes(3) as nodes:
        first, second = Tsd(nodes[0]), Tsd(nodes[1], GroupName(2, 1))
        first.start()
        second.start()
        nodes[2].workload.assign(first.group, lun, deadline=time.monotonic() + 10)
        assert nodes[2].source.native(0) is None and nodes[0].source.native(0) is not None
        with nodes[2].open_router("lun:0") as router:
            router.run(Op.WRITE, 0, 512, memoryview(b"1" * 512))
            first.close()
            done: list[object] = []
            from cdp.platform import IoRequest
            router.submit(IoRequest(Op.WRITE, 512, 512, memoryview(b"2" * 512), 
                                    done=lambda _request, error: done.append(error)))
            time.sleep(0.1)
            assert not done
            nodes[2].workload.assign(second.group, lun, deadline=time.monotonic() + 10)
            found = bytearray(1024)
            router.run(Op.READ, 0, 1024, memoryview(found))
            assert done == [None] and found == b"1" * 512 + b"2" * 512
        second.close()
        second.close()


# --- cdp serve on a platform that has only packets

def test_serve_on_the_python_platform(tmp_path: Path):
    cdp.create(tmp_path / "v", size=SIZE).close()
    socket = tmp_path / "s"
    serve = [sys.executable, "-m", "cdp", "serve", str(tmp_path / "v"), "--unix", str(socket), "--platform", "python"]
    server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    try:
        assert server.stderr
        assert any("ready" in line for line in iter(server.stderr.readline, ""))
        from cdp.platform.routers import open_router

        data = os.urandom(1 << 20)
        with open_router([f"nbd+unix:///v?socket={socket}"]) as disk:
            disk.run(Op.WRITE, 4097, len(data), memoryview(data))
            disk.run(Op.TRIM, 0, 8192)
            disk.run(Op.FLUSH)
            found = bytearray(len(data))
            disk.run(Op.READ, 4097, len(data), memoryview(found))
            assert found == bytes(4095) + data[4095:]
    finally:
        server.terminate()
        assert server.wait(20) == 0
    with cdp.open(tmp_path / "v") as volume:
        assert volume.pread(len(data), 4097) == found


def test_serve_on_an_unknown_platform(tmp_path: Path):
    cdp.create(tmp_path / "v", size=SIZE).close()
    serve = [sys.executable, "-m", "cdp", "serve", str(tmp_path / "v"), "--unix", str(tmp_path / "s"), "--set",
             "platform=nowhere"]
    done = subprocess.run(serve, capture_output=True, text=True, check=False,
                          env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert done.returncode == 3 and "no platform 'nowhere'" in done.stderr and done.stderr.count("\n") == 1

"""The inputs that fuzzing kept (tests/fuzz/corpus), each once, under the sanitizers: `make fuzz` goes on from them, and
what was found once is not lost. Neither clang nor libFuzzer is needed here."""
from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import campaign
import first_inputs

pytestmark = pytest.mark.once

BASE = ["base/crc32c", "base/status"]
FRAMES = [*BASE, "log/frame"]
TRACES = [f"trace/trace_{name}" for name in ("blkparse", "columns", "csv", "devices", "lines", "text")]
SOURCES = {     # what a harness reaches
    "binary_traces": [*BASE, *TRACES, "trace/trace_blktrace", "trace/trace_dmlog"], "frames": FRAMES,
    "nbd_requests": [*BASE, "nbd/nbd_wire"], "packets": [*BASE, "channel/mdpacket_check"],
    "runs": [*BASE, "index/run"], "segments": [*FRAMES, "log/segment", "log/segment_sums", "log/block_sums"],
    "text_traces": [*BASE, *TRACES],
}


def test_every_harness_is_here() -> None:
    assert SOURCES.keys() == campaign.harnesses().keys()
    assert {path.name for path in campaign.CORPUS.iterdir() if path.is_dir()} == {*SOURCES, *campaign.modules()}


def build(tmp_path: Path, name: str, *flags: str) -> Path:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    program = tmp_path / name
    files = [campaign.harnesses()[name], HERE / "harness" / "replay.c",
             *(campaign.CORE / f"{source}.c" for source in SOURCES[name])]
    how = [flag for flag in campaign.FLAGS if flag not in ("-O1", "-g")]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run([*compiler, *campaign.SANITIZERS, str(probe), "-o", str(program)], capture_output=True,
                      check=False).returncode:
        pytest.skip("this compiler has no sanitizers")
    subprocess.run([*compiler, *how, "-O0", *flags, *campaign.SANITIZERS, *map(str, files), "-lpthread", "-o",
                    str(program)], check=True)
    return program


def replay(program: Path, inputs: list[Path]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run([str(program), *map(str, inputs)], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("name", SOURCES)
def test_inputs_of_the_corpus(name: str, tmp_path: Path) -> None:
    inputs = sorted((campaign.CORPUS / name).iterdir())
    done = replay(build(tmp_path, name), inputs)
    assert done.returncode == 0, done.stderr
    assert inputs and done.stdout == f"{len(inputs)} inputs\n"


@pytest.mark.parametrize("name", campaign.modules())
def test_inputs_of_the_corpus_in_python(name: str) -> None:
    target = importlib.import_module(f"targets.{name}")
    inputs = sorted((campaign.CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            target.one(path.read_bytes())
        except Exception as error:
            error.add_note(f"the input {path}")
            raise


@pytest.mark.planted
def test_a_reader_without_its_check_is_noticed(tmp_path: Path) -> None:
    """A check of a frame's header is taken out: a record whose data lies far behind the file's end is then read."""
    frame = (campaign.CORE / "log" / "frame.c").read_text()
    check = re.search(r"\n *if \(d->data_bytes && \(at < first .*\n *return 0;", frame)
    assert check
    core = tmp_path / "core" / "log"
    core.mkdir(parents=True)
    (core / "frame.c").write_text(frame.replace(check[0], ""))
    bad = tmp_path / "input"
    bad.write_bytes(_with_data_far_away((HERE.parent / "golden" / "v1" / "log" / "0000000001.log").read_bytes()))
    assert replay(build(tmp_path, "frames"), [bad]).returncode == 0
    done = replay(_with(tmp_path, core / "frame.c"), [bad])
    assert done.returncode != 0 and ("not so" in done.stderr or "AddressSanitizer" in done.stderr)


def _with_data_far_away(raw: bytes) -> bytes:
    changed = bytearray(raw)
    at = next(at for at in range(4096 + 64, 8192, 40) if int.from_bytes(changed[at + 36:at + 40], "little"))
    changed[at + 24:at + 28] = (1 << 30).to_bytes(4, "little")
    return bytes([first_inputs.MEND | 2]) + first_inputs.missing(raw) + first_inputs.packed(bytes(changed))


def _with(tmp_path: Path, frame: Path) -> Path:
    """The harness of frames with another frame.c."""
    kept, SOURCES["frames"] = SOURCES["frames"], BASE
    try:
        return build(tmp_path, "frames", str(frame))
    finally:
        SOURCES["frames"] = kept


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(SystemExit, match="no target nothing; there are"):
        campaign.chosen("frames,nothing")

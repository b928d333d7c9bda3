"""The slots of a log under readers and a writer at once (tests/c/slots_check.c), and with rules of theirs broken."""
from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from core.test_osapi import find_compiler

ROOT = Path(__file__).parent.parent.parent
PINS, CHECK, BOUND = 1, 2, 4
GONE = -signal.SIGSEGV      # what a reader was reading had been given back


def build(folder: Path, *flags: str) -> str:
    compiler = find_compiler()
    if not compiler or os.environ.get("LD_PRELOAD"):
        pytest.skip("needs a C compiler, and nothing preloaded")
    core, program = ROOT / "src" / "cdpcore", str(folder / "slots_check")
    built = subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE=1", "-g", "-O1", *flags, f"-I{core}", "-o", program,
                            str(ROOT / "tests/c/slots_check.c"), str(core / "log/slots.c"),
                            str(core / "log/memory_bound.c"), "-lpthread"], check=False, capture_output=True, text=True)
    if built.returncode and "-fsanitize" in " ".join(flags) and "cannot find" in built.stderr:
        pytest.skip("this compiler has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("flags", [[], ["-fsanitize=address,undefined", "-fno-sanitize-recover"],
                                   ["-fsanitize=thread"]], ids=["plain", "asan", "tsan"])
@pytest.mark.parametrize("openings", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_reader_sees_what_was_written_there(tmp_path: Path, flags: list[str], openings: int) -> None:
    ran = subprocess.run([build(tmp_path, *flags), str(openings), "0"], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("rule", "exit_codes"), [(PINS, {1, GONE}), (CHECK, {1, GONE}), (BOUND, {2})])
def test_a_broken_rule_is_seen(tmp_path: Path, rule: int, exit_codes: set[int]) -> None:
    """A slot reused while a reader copies from it; one pinned after it was reused; more memory than the bound."""
    program = build(tmp_path)
    for openings in (1_000, 100_000, 10_000_000, 40_000_000):
        ran = subprocess.run([program, str(openings), str(rule)], check=False, capture_output=True, text=True)
        if ran.returncode:
            break
    assert ran.returncode in exit_codes, ran.stdout + ran.stderr

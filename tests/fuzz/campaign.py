"""make fuzz: bytes that nobody meant, for each reader of bytes, guided by coverage, for some time each.

A target is a program of libFuzzer: tests/fuzz/harness/NAME.c, which is linked with the C of the engine and has no
Python in it (clang with the address and undefined-behaviour sanitizers); or tests/fuzz/targets/NAME.py, which atheris
runs with the Python of cdp instrumented. Each starts with the inputs in tests/fuzz/corpus/NAME; what it finds beyond
them is kept in build/fuzz/corpus/NAME, so that the next run goes on from there. A finding is the input that made it, in
build/fuzz/findings.

One target runs at a time. What counts for a comparison is executions and processor time, which are printed; the time by
the clock is the machine's load too.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORE = ROOT / "src" / "cdpcore"
BUILD = ROOT / "build" / "fuzz"
CORPUS = HERE / "corpus"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", f"-I{CORE}", f"-I{HERE / 'harness'}"]
INPUT_SECONDS = 20              # an input that takes longer is a finding
MEMORY_MB = 2048                # so is one that needs more
KEPT_BYTES = 24 << 10           # larger inputs are not kept in the repository
PLAIN = {"crc32c"}              # no branch of it is of interest, and checksums are most of the work


@dataclass(frozen=True)
class Outcome:
    """What a run of a target came to. edges: of edges_in_all that the instrumented code
    has (0: of Python, which is instrumented as it is imported, that is not told). inputs: of its corpus."""

    target: str
    executions: int
    processor_seconds: float
    edges: int
    edges_in_all: int
    inputs: int
    findings: list[str]


def harnesses() -> dict[str, Path]:
    return {path.stem: path for path in sorted((HERE / "harness").glob("*.c")) if path.stem != "replay"}


def modules() -> dict[str, Path]:
    return {path.stem: path for path in sorted((HERE / "targets").glob("*.py")) if not path.stem.startswith("_")}


def core_sources() -> list[Path]:
    return sorted(CORE.glob("*/*.c"))


def lacking() -> str:
    """What the harnesses in C need and this machine has not; "": nothing."""
    if shutil.which("clang") is None:
        return "needs clang (Debian: clang and libclang-rt-dev)"
    BUILD.mkdir(parents=True, exist_ok=True)
    probe = BUILD / "probe.c"
    probe.write_text("#include <stddef.h>\nint LLVMFuzzerTestOneInput(const unsigned char *d, size_t n)\n"
                     "{ return d && n ? 0 : 0; }\n")
    built = subprocess.run(["clang", "-fsanitize=fuzzer,address,undefined", str(probe), "-o", str(BUILD / "probe")],
                           capture_output=True, check=False)
    return "" if built.returncode == 0 else "needs clang with its runtimes (Debian: libclang-rt-dev)"


def build(names: list[str]) -> None:
    """The engine's C once, then a program a harness; what is newer than its sources stays."""
    objects = BUILD / "obj"
    objects.mkdir(parents=True, exist_ok=True)
    headers = max(path.stat().st_mtime for path in [*CORE.glob("*/*.h"), *(HERE / "harness").glob("*.h")])
    made = []
    for source in core_sources():
        made.append(objects / f"{source.stem}.o")
        if made[-1].exists() and made[-1].stat().st_mtime > max(headers, source.stat().st_mtime):
            continue
        how = ["-O2"] if source.stem in PLAIN else [*SANITIZERS, "-fsanitize=fuzzer-no-link"]
        subprocess.run(["clang", *FLAGS, *how, "-c", str(source), "-o", str(made[-1])], check=True)
    library = BUILD / "libcdpcore.a"
    library.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", str(library), *map(str, made)], check=True)
    for name in names:
        subprocess.run(["clang", "-Wall", "-Wextra", *FLAGS, *SANITIZERS, "-fsanitize=fuzzer",
                        str(harnesses()[name]), str(library), "-lpthread", "-o", str(BUILD / name)], check=True)


def command(name: str) -> list[str]:
    if name in harnesses():
        return [str(BUILD / name)]
    return [sys.executable, str(HERE / "guided.py"), name]


def folders(name: str) -> list[str]:
    """Where new inputs go, and where those of the repository are."""
    own = BUILD / "corpus" / name
    own.mkdir(parents=True, exist_ok=True)
    (BUILD / "findings").mkdir(exist_ok=True)
    return [str(own), *([str(CORPUS / name)] if (CORPUS / name).is_dir() else [])]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1",
            "UBSAN_OPTIONS": "print_stacktrace=1"}


def run(name: str, seconds: int, seed: int | None) -> Outcome:
    log = BUILD / f"{name}.log"
    findings = BUILD / "findings"
    before = set(findings.glob(f"{name}-*")) if findings.exists() else set()
    argv = [*command(name), f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}",
            "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-",
            *([f"-seed={seed}"] if seed is not None else []), *folders(name)]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as out:
        status = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, cwd=BUILD, env=environment(),
                                check=False).returncode
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = log.read_text(errors="replace")
    found = [str(path) for path in sorted(set(findings.glob(f"{name}-*")) - before)]
    if status and not found:
        found = [f"{log} (status {status})"]

    def last(pattern: str) -> int:
        return int((re.findall(pattern, said, re.MULTILINE) or ["0"])[-1])

    in_all = sum(map(int, re.findall(r"^INFO: Loaded \d+ modules\s+\((\d+) ", said, re.MULTILINE)[:1]))
    return Outcome(name, last(r"^stat::number_of_executed_units: (\d+)") or last(r"^#(\d+)"),
                   ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime,
                   last(r"cov: (\d+)"), in_all, last(r"corp: (\d+)"), found)


def keep(name: str) -> None:
    """What reaches something that the repository's inputs do not becomes one of them."""
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    subprocess.run([*command(name), "-set_cover_merge=1" if name in harnesses() else "-merge=1", "-verbosity=0",
                    f"-timeout={INPUT_SECONDS}", f"-max_len={KEPT_BYTES}", str(CORPUS / name),
                    str(BUILD / "corpus" / name)], check=True, cwd=BUILD, env=environment(),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for path in (CORPUS / name).iterdir():
        if path.stat().st_size > KEPT_BYTES:
            path.unlink()


def chosen(wanted: str) -> list[str]:
    every = [*harnesses(), *modules()]
    names = wanted.split(",") if wanted else every
    if unknown := set(names) - set(every):
        sys.exit(f"fuzz: no target {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    strict = os.environ.get("CI") == "true"
    for some, why in ((harnesses(), lacking() if set(names) & harnesses().keys() else ""),
                      (modules(), "" if importlib.util.find_spec("atheris") else "needs atheris (make fuzz has it)")):
        if why and set(names) & some.keys():
            print(f"fuzz: not run: {', '.join(name for name in names if name in some)}: {why}", flush=True)
            if strict:
                sys.exit(1)
            names = [name for name in names if name not in some]
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--target", default="", help="these alone, with commas between them")
    parser.add_argument("--seed", type=int, default=None, help="libFuzzer's seed (a new one)")
    parser.add_argument("--keep", action="store_true", help="run nothing; add what earlier runs found to the corpora")
    args = parser.parse_args()
    names = chosen(args.target)
    build([name for name in names if name in harnesses()]) if set(names) & harnesses().keys() else None
    outcomes = []
    print(f"{'target':16} {'executions':>11} {'processor':>10} {'coverage':>13} {'inputs':>7}  findings", flush=True)
    for name in names:
        if args.keep:
            keep(name)
            continue
        one = run(name, args.seconds, args.seed)
        outcomes.append(one)
        share = f"{one.edges}/{one.edges_in_all}" if one.edges_in_all else f"{one.edges}"
        print(f"{one.target:16} {one.executions:11,} {one.processor_seconds:8.1f} s {share:>13} {one.inputs:7}  "
              f"{', '.join(one.findings) or 'none'}", flush=True)
    if outcomes:
        (BUILD / "report.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1))
    failed = [one for one in outcomes if one.findings]
    for one in failed:
        print(f"\n{one.target}: run it again: {' '.join(command(one.target))} {one.findings[0]}", flush=True)
        print("\n".join((BUILD / f"{one.target}.log").read_text(errors="replace").splitlines()[-60:]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

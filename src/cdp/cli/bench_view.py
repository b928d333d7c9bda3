"""What `cdp bench` prints: rates, ratios, latencies, and how many requests took how long. Pure."""
from typing import Any

from cdp.bench.load import Load
from cdp.bench.report import describe
from cdp.bench.run import PATHS, Path, Side, kinds
from cdp.cli.base import table
from cdp.text.sizes import approx_ns, approx_size

BAR_CELLS = 24


def lines(paths: list[Path], load: Load, rounds: int, found: dict[str, Any]) -> list[str]:
    out = [f"{describe(load)}; {approx_size(load.span_bytes)}; {rounds} rounds of {load.seconds:g} s, alternating",
           f"{found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, load {found['load_1m']}"]
    for path in paths:
        in_process = f", {load.jobs} thread{'s' * (load.jobs > 1)}, one request at a time each"
        out += ["", f"{PATHS[path.name]}{in_process if path.name == 'process' else ''}"]
        rows = []
        for side in path.sides:
            rate = path.rate(side)
            speed = sorted(one.bytes_per_second for one in side.rounds)[len(side.rounds) // 2]
            rows.append([side.name, f"{rate['median']:,.0f}", f"{rate['min']:,.0f} .. {rate['max']:,.0f}",
                         f"{speed / 1e6:,.1f}"])
        out += table(["", "PER s", "MIN .. MAX", "MB/s"], rows)
        ratio = path.ratio()
        out.append(f"{path.sides[0].name} / {path.sides[-1].name}: {ratio['median']:.2f} ({ratio['min']:.2f} .. "
                   f"{ratio['max']:.2f})")
        for kind in kinds(path):
            out += ["", *table([kind.upper(), "p50", "p95", "p99", "p99.9", "MAX"],
                               [_latency(side, kind) for side in path.sides]), *_bars(path, kind)]
    return out


def _latency(side: Side, kind: str) -> list[str]:
    found = side.latency(kind) or {}
    return [side.name, *(approx_ns(found.get(name, 0)) for name in ("p50_ns", "p95_ns", "p99_ns", "p999_ns", "max_ns"))]


def _bars(path: Path, kind: str) -> list[str]:
    """How many took how long: a line an octave, a bar a side."""
    octaves: dict[int, list[int]] = {}
    totals = [0 for _ in path.sides]
    for at, side in enumerate(path.sides):
        for upper, count in side.histogram(kind):
            octaves.setdefault(upper.bit_length(), [0 for _ in path.sides])[at] += count
            totals[at] += count
    if not octaves:
        return []
    rows = [f"  {'up to':>9}  " + "  ".join(f"{side.name:<{BAR_CELLS + 7}}" for side in path.sides).rstrip()]
    for bits in range(min(octaves), max(octaves) + 1):
        cells = []
        for count, total in zip(octaves.get(bits, [0] * len(totals)), totals, strict=True):
            share = count / total if total else 0.0
            bar = "#" * round(share * BAR_CELLS) or ("." if count else "")
            cells.append(f"{share:6.1%} {bar:<{BAR_CELLS}}")
        rows.append(f"  {approx_ns((1 << bits) - 1):>9}  " + "  ".join(cells).rstrip())
    return rows

"""Rounds that alternate between a volume and a plain file, over NBD and in process, and what they measured."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cdp.bench.load import KINDS, Load, Outcome, in_process, merged, over_nbd
from cdp.bench.place import Disk
from cdp.bench.spread import Spread, order, ratios, spread
from cdp.service.rates import quantile

PATHS = {"nbd": "over NBD, unix socket", "process": "in process"}
QUANTILES = {"p50_ns": 500, "p95_ns": 950, "p99_ns": 990, "p999_ns": 999}


@dataclass
class Side:
    """One disk on one path: its rounds."""

    name: str
    rounds: list[Outcome] = field(default_factory=list)

    def rates(self) -> list[float]:
        return [one.per_second for one in self.rounds]

    def histogram(self, kind: str) -> list[tuple[int, int]]:
        return merged([one.histograms[kind] for one in self.rounds])

    def latency(self, kind: str) -> dict[str, int] | None:
        """Of all rounds; None where there was no such request."""
        buckets = self.histogram(kind)
        if not buckets:
            return None
        longest = max(one.max_ns[kind] for one in self.rounds)
        return {"count": sum(count for _, count in buckets),
                **{name: min(quantile(buckets, q), longest) for name, q in QUANTILES.items()}, "max_ns": longest}


@dataclass
class Path:
    """What was measured on one path; the first side is the volume's, the last the plain file's."""

    name: str
    sides: list[Side]

    def ratio(self) -> Spread:
        return ratios(self.sides[0].rates(), self.sides[-1].rates())

    def rate(self, side: Side) -> Spread:
        return spread(side.rates())


def measure(disks: Sequence[Disk], load: Load, names: Sequence[str], rounds: int,
            progress: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Every disk in every round, in rotated order, with the same offsets. A path on which the volume cannot be reached
    is left out. Raises what a request's failure was."""
    paths = [Path(name, [Side(disk.name) for disk in disks]) for name in names
             if name == "nbd" or all(disk.capsule is not None for disk in disks)]
    for number in range(rounds):
        for path in paths:
            by_name = {disk.name: (disk, side) for disk, side in zip(disks, path.sides, strict=True)}
            for name in order(list(by_name), number):
                disk, side = by_name[name]
                progress(f"round {number + 1} of {rounds}, {PATHS[path.name]}: {name}")
                if path.name == "nbd":
                    side.rounds.append(over_nbd(disk.address, load, number + 1))
                else:
                    side.rounds.append(in_process(disk.capsule, load, number + 1))
                disk.settle()
    return paths


def kinds(path: Path) -> list[str]:
    """The kinds of request that there were."""
    return [kind for kind in KINDS if any(side.histogram(kind) for side in path.sides)]

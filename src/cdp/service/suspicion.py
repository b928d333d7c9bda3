"""Whether what is done to a volume looks like its content being encrypted in place: the counts of one look after the
other, against each other and against the volume's own past.

Evidence is bytes, of two sorts:

    open    what was read, had data that are not random, and is random now; and what was read and trimmed, as far as as
            much random data was written elsewhere
    closed  what was read, was random, and is random now, with nothing left of what it was: on a disk that the guest
            encrypts this is all that can be seen, and an honest load does it, too

Of a look, evidence counts only where it is at least SHARE of all that was written or trimmed in it. It adds up, and
seeps away at the rate of one threshold a day: a slow run is found when it has done as much as a fast one. The threshold
is the setting (closed: CLOSED_TIMES that), or where the volume did more than half of that in the past without being
found suspicious, twice of what it did.

Invariants
  1. Nothing alone decides: without reads before, without data that were overwritten, or without random data in their
     place there is no evidence.
  2. begin_seq is a moment before all that the run did.
Pure. One thread at a time.
"""
from __future__ import annotations

from dataclasses import dataclass, field

SORTS = ("open", "closed")
SHARE = {"open": 1 / 8, "closed": 3 / 4}
CLOSED_TIMES = 4
MOST_TIMES = 16             # the past makes no threshold more than so many times what it would be without
DAY_S, WEEK_S = 86_400.0, 7 * 86_400.0
QUIET_S = 600.0             # so long without evidence ends a run that was reported


@dataclass(frozen=True)
class Look:
    """What was done between two looks, in bytes, estimated: written, trimmed (or zeroed), read_first: written, and read
    shortly before; overwritten: written where data were; scrambled, replaced: see above; removed: trimmed, read shortly
    before, and not random data; random: written without having been read, and random. first_seq: the last record
    before; seconds: since the look before."""

    first_seq: int
    seconds: float
    written: float = 0.0
    trimmed: float = 0.0
    read_first: float = 0.0
    overwritten: float = 0.0
    scrambled: float = 0.0
    replaced: float = 0.0
    removed: float = 0.0
    random: float = 0.0

    def evidence(self, sort: str) -> float:
        """In bytes, where it is enough of the whole."""
        found = self.replaced if sort == "closed" else self.scrambled + min(self.removed, self.random)
        return found if found >= SHARE[sort] * (self.written + self.trimmed) else 0.0


@dataclass
class Run:
    """Of one sort: what adds up. evidence 0: there is none. most: the evidence at its highest; past: the most of an
    earlier run that was not reported, halved every week. looks: what was done in it."""

    evidence: float = 0.0
    begin_seq: int = 0
    most: float = 0.0
    past: float = 0.0
    quiet_s: float = 0.0
    reported: bool = False
    sums: dict[str, float] = field(default_factory=dict)


class Suspicion:
    """Of one volume. threshold_bytes: so much evidence is suspicious."""

    def __init__(self, threshold_bytes: int):
        self._threshold = float(threshold_bytes)
        self.runs = {sort: Run() for sort in SORTS}

    def threshold(self, sort: str) -> float:
        least = self._threshold * (CLOSED_TIMES if sort == "closed" else 1)
        return min(max(least, 2 * self.runs[sort].past), MOST_TIMES * least)

    def add(self, look: Look) -> None:
        for sort, run in self.runs.items():
            found, threshold = look.evidence(sort), self.threshold(sort)
            run.past *= 0.5 ** (look.seconds / WEEK_S)
            if found and not run.evidence:
                run.begin_seq = look.first_seq
            run.evidence = max(0.0, run.evidence + found - threshold * look.seconds / DAY_S)
            run.quiet_s = 0.0 if found else run.quiet_s + look.seconds
            if run.evidence >= threshold:
                run.reported = True
            if found:
                for name in ("written", "trimmed", "read_first", "overwritten", "scrambled", "replaced", "removed"):
                    run.sums[name] = run.sums.get(name, 0.0) + getattr(look, name)
            run.most = max(run.most, run.evidence)
            if not run.evidence or run.reported and run.quiet_s >= QUIET_S:
                past = run.past if run.reported else max(run.past, run.most)
                self.runs[sort] = Run(past=past)

    @property
    def found(self) -> Run | None:
        """The run that is suspicious, if one is: of two, the one that began first."""
        return min((run for run in self.runs.values() if run.reported), key=lambda run: run.begin_seq, default=None)

    @property
    def bytes(self) -> int:
        """The evidence of the run that is suspicious, never below the setting; 0: none is."""
        run = self.found
        return 0 if run is None else max(int(run.evidence), int(self._threshold))


def described(run: Run) -> str:
    """In words, with the shares of its features."""
    written, trimmed = run.sums.get("written", 0.0), run.sums.get("trimmed", 0.0)

    def share(name: str, of: float) -> str:
        return f"{100 * min(1.0, run.sums.get(name, 0.0) / of):.0f} %" if of else "0 %"

    return (f"of what was written {share('overwritten', written)} overwrote data, {share('read_first', written)} had "
            f"been read shortly before, and {share('scrambled', written)} made random data of others; "
            f"{share('trimmed', written + trimmed)} of all changes are trims")

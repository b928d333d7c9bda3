"""What a policy keeps, against a model that looks at every record; and how old records are under clocks that are
set."""
from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.moments.ages import JUMP_NS, Ages, Sample, agree, joined
from cdp.moments.clock import Stretch, stretches_of
from cdp.moments.model import ClockStep, Moment
from cdp.moments.policy import NS, REFUSE, THIN, Policy, Tier
from cdp.moments.retention import Pin, plan
from cdp.moments.thinned import Thinned

T0 = 1795168800 * NS + 7
DAY, YEAR = 86400 * NS, 365 * 86400 * NS
TUNED = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass
class Records:
    """A history as a list: (seq, ts_ns, flushed), the oldest first; a cdp.moments.retention.History."""

    rows: list[tuple[int, int, bool]]
    steps: list[ClockStep] = field(default_factory=list)
    restores: list[tuple[int, int]] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)
    total_bytes: int = 0
    stays_seq: int = 1 << 60
    thinned: Thinned = field(default_factory=Thinned)

    def __post_init__(self) -> None:
        self.oldest, self.newest = self.moment(self.rows[0][0]), self.moment(self.rows[-1][0])
        self.stretches = stretches_of(self.steps, self.oldest, self.newest, self.newest.ts_ns)

    def moment(self, seq: int) -> Moment:
        row = max((row for row in self.rows if row[0] <= seq), default=self.rows[0])
        return Moment(row[0], row[1])

    def at_time(self, ts_ns: int, stretch: Stretch) -> Moment:
        found = [row for row in self.rows if stretch.first_seq <= row[0] <= stretch.last_seq and row[1] <= ts_ns]
        return Moment(*found[-1][:2]) if found else Moment(stretch.first_seq - 1, 0)

    def last_flush(self, seq: int) -> int:
        return max((row[0] for row in self.rows if row[2] and row[0] <= seq), default=0)

    def without_before(self, seq: int) -> Records:
        return Records([row for row in self.rows if row[0] >= seq], [s for s in self.steps if s.seq > seq],
                       [r for r in self.restores if r[1] > seq], [s for s in self.segments if s[0] >= seq])


def ages_of(history: Records, wall_ns: int) -> Ages:
    """By the clock on the wall alone, as of a volume whose policy is new."""
    return Ages([], Sample(history.newest.seq, 0, wall_ns), history.steps)


def model(policy: Policy, history: Records, ages: Ages) -> tuple[list[int], list[list[int]]]:
    """The seqs that `all` keeps, and those of each tier, record by record."""
    moments = [Moment(seq, ts_ns) for seq, ts_ns, _ in history.rows]
    flushed = {seq for seq, _, was_flushed in history.rows if was_flushed}

    def alive(points: list[Moment], span_ns: int | None) -> list[int]:
        ends = [*points[1:], None]
        return [p.seq for p, after in zip(points, ends, strict=True)
                if after is None or span_ns is None or ages.age_ns(after) < span_ns]

    def stretch_of(at: Moment) -> int:
        return sum(step.seq <= at.seq for step in history.steps)

    kept = []
    for tier in policy.tiers[1:]:
        slots: dict[tuple[int, int], list[Moment]] = {}
        for at in moments:
            slots.setdefault((stretch_of(at), at.ts_ns // tier.interval_ns), []).append(at)
        points = [next((m for m in reversed(slot) if m.seq in flushed), slot[-1]) for slot in slots.values()]
        kept.append(alive(points, tier.span_ns))
    return alive(moments, policy.tiers[0].span_ns), kept


spans = st.sampled_from([3, 10, 30, 60, 120, 600, 3600, 86400, None])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    whole = draw(st.sampled_from([3, 20, 60, 400]))
    tiers, interval, span = [Tier(0, whole * NS)], draw(st.sampled_from([1, 2, 10])), whole
    for _ in range(draw(st.integers(0, 3))):
        span = max(span * draw(st.integers(2, 8)), interval)
        tiers.append(Tier(interval * NS, span * NS))
        interval *= draw(st.integers(2, 6))
    if draw(st.booleans()) and len(tiers) > 1:
        tiers[-1] = Tier(tiers[-1].interval_ns, None)
    return Policy(tuple(tiers), floor_ns=draw(st.integers(1, whole)) * NS)


@st.composite
def histories(draw: st.DrawFn, set_back: bool = True) -> Records:
    ts_ns, rows, steps = T0, [(0, T0, True)], []      # the base counts as flushed
    for seq in range(1, draw(st.integers(1, 40))):
        by = draw(st.sampled_from([1, 1000, NS // 3, NS, 7 * NS, 61 * NS, 4000 * NS, 2 * DAY]))
        if set_back and draw(st.integers(0, 9)) == 0:
            steps.append(ClockStep(seq, ts_ns, max(1, ts_ns - by - NS)))
            ts_ns = steps[-1].after_ns
        else:
            ts_ns += by
        rows.append((seq, ts_ns, draw(st.booleans())))
    return Records(rows, steps)


later = st.sampled_from([0, 1, NS, 5 * NS, 100 * NS, 5000 * NS, 3 * DAY])


@TUNED
@given(policies(), histories(), later)
def test_a_plan_is_what_the_model_says(policy: Policy, history: Records, idle: int):
    ages = ages_of(history, history.newest.ts_ns + idle)
    got = plan(policy, history, [], ages)
    whole, tiers = model(policy, history, ages)
    assert got.whole_seq == whole[0] and got.kept[0].points == len(whole)
    assert [list(kept.seqs) for kept in got.kept[1:]] == tiers
    assert got.first_seq == got.ruled_seq == min([whole[0], *(seqs[0] for seqs in tiers)])


@TUNED
@given(policies(), histories(), later, later)
def test_what_is_kept_later_is_kept_now_and_giving_up_twice_is_giving_up_once(policy: Policy, history: Records,
                                                                              idle: int, more: int):
    now, then = (ages_of(history, history.newest.ts_ns + ns) for ns in (idle, idle + more))
    first, second = plan(policy, history, [], now), plan(policy, history, [], then)
    assert second.first_seq >= first.first_seq and second.whole_seq >= first.whole_seq
    for early, late in zip(first.kept[1:], second.kept[1:], strict=True):
        assert set(late.seqs) <= set(early.seqs)
    kept = {seq for rule in first.kept for seq in rule.seqs} | {r[0] for r in history.rows if r[0] >= first.whole_seq}
    thinned = Records([row for row in history.rows if row[0] in kept], history.steps)
    again = plan(policy, thinned, [], now)
    assert [k.seqs for k in again.kept] == [k.seqs for k in first.kept] and again.first_seq == first.first_seq
    folded = history.without_before(first.first_seq)
    assert plan(policy, folded, [], now).first_seq == first.first_seq


@TUNED
@given(policies(), histories(), later, st.lists(st.integers(0, 39), max_size=3),
       st.lists(st.tuples(st.integers(0, 39), st.integers(1, 39)), max_size=2))
def test_pins_and_restores_hold(policy: Policy, history: Records, idle: int, seqs: list[int],
                                spans_of: list[tuple[int, int]]):
    newest = history.newest.seq
    history.restores = [(t, r) for t, r in spans_of if t < r <= newest]
    pins = [Pin("bookmark", f"b{seq}", "", history.moment(seq)) for seq in seqs]
    got = plan(policy, history, pins, ages_of(history, history.newest.ts_ns + idle))
    assert got.first_seq <= min([got.ruled_seq, *(pin.at.seq for pin in pins)])
    history.segments = [(seq, 10) for seq in range(2, newest, 3)]
    start = plan(policy, history, pins, ages_of(history, history.newest.ts_ns + idle)).start_seq
    assert start <= got.first_seq
    for at in (got.first_seq, start):
        assert not [1 for target, seq in history.restores if target < at < seq]
    assert bool(got.held_by) == (got.first_seq < got.ruled_seq)


@TUNED
@given(policies(), histories(), later, st.integers(0, 40), st.sampled_from([THIN, REFUSE]))
def test_the_limit_takes_whole_segments_and_never_the_floor(policy: Policy, history: Records, idle: int, limit: int,
                                                            when_full: str):
    history.segments = [(seq, 10) for seq in range(4, history.newest.seq, 5)]
    history.total_bytes = 10 * len(history.segments) + 3
    limited = Policy(policy.tiers, floor_ns=policy.floor_ns, limit_bytes=limit, when_full=when_full)
    ages = ages_of(history, history.newest.ts_ns + idle)
    got, unlimited = plan(limited, history, [], ages), plan(policy, history, [], ages)
    floor = model(Policy((Tier(0, policy.floor_ns),)), history, ages)[0][0]
    assert unlimited.first_seq <= got.first_seq <= max(floor, unlimited.first_seq)
    assert got.start_seq in {0, *(s[0] for s in history.segments)} and got.start_seq <= got.first_seq
    if when_full == REFUSE:
        assert got.first_seq == unlimited.first_seq
    left = history.total_bytes - sum(size for last, size in history.segments if last <= got.start_seq)
    assert got.over_bytes == max(0, left - limit)
    if when_full == THIN and got.over_bytes:    # nothing more could go
        assert not [s for s in history.segments if got.start_seq < s[0] <= floor]
    if got.limited:
        assert all(rule.oldest.seq >= got.first_seq or not rule.seqs for rule in got.kept)


# --- ages -----------------------------------------------------------------------------------------------------------

class Machine:
    """Records of a volume that is sampled after each, by a wall clock that may be set, and the time that passed."""

    def __init__(self) -> None:
        self.true_ns, self.wall_ns, self.seq = 0, T0, 0
        self.samples = [Sample(0, 0, T0)]
        self.made: list[tuple[Moment, int]] = [(Moment(0, T0), 0)]
        self.steps: list[ClockStep] = []

    def go(self, ns: int) -> None:
        self.true_ns += ns
        self.wall_ns += ns

    def write(self) -> None:
        last = self.made[-1][0].ts_ns
        ts_ns = self.wall_ns if self.wall_ns > last or last - self.wall_ns >= NS // 10 else last + 1
        self.seq += 1
        if ts_ns < last:
            self.steps.append(ClockStep(self.seq, last, ts_ns))
        self.made.append((Moment(self.seq, ts_ns), self.true_ns))

    def sample(self) -> None:
        self.samples = joined(self.samples, self.now(), self.steps[-1].seq if self.steps else 0)

    def now(self) -> Sample:
        return Sample(self.seq, self.true_ns, self.wall_ns)


actions = st.lists(st.one_of(
    st.tuples(st.just("go"), st.sampled_from([1, NS // 50, NS, 70 * NS, 3600 * NS])),
    st.tuples(st.just("set"), st.sampled_from([-YEAR, YEAR, -3600 * NS, 3600 * NS, NS // 2, -NS // 2])),
    st.tuples(st.sampled_from(["write", "sample"]), st.just(0))), max_size=50)


@TUNED
@given(actions)
def test_no_record_counts_as_older_than_it_is_and_ages_ascend(program: list[tuple[str, int]]):
    machine = Machine()
    for what, ns in program:
        if what == "set":
            machine.wall_ns += ns
        else:
            getattr(machine, what)(*([ns] if what == "go" else []))
    ages = Ages(machine.samples, machine.now(), machine.steps)
    found = [ages.elapsed(at) for at, _ in machine.made]
    assert found == sorted(found)
    for at, true_ns in machine.made:
        assert ages.age_ns(at) <= machine.true_ns - true_ns + JUMP_NS
        assert ages.elapsed(at) <= machine.true_ns


@TUNED
@given(st.lists(st.sampled_from([NS // 10, NS, 61 * NS, 7200 * NS]), min_size=1, max_size=30))
def test_with_a_clock_that_is_not_set_ages_are_right_and_two_samples_enough(pauses: list[int]):
    machine = Machine()
    for ns in pauses:
        machine.go(ns)
        machine.write()
        machine.sample()
    ages = Ages(machine.samples, machine.now(), machine.steps)
    assert len(machine.samples) <= 2
    for at, true_ns in machine.made[1:]:
        assert ages.elapsed(at) == true_ns


@TUNED
@given(policies(), st.sampled_from([YEAR, 3600 * NS, 400 * DAY]), st.booleans())
def test_a_clock_that_is_set_forward_expires_nothing(policy: Policy, jump_ns: int, and_back: bool):
    machine = Machine()
    for _ in range(12):
        machine.go(NS // 4)
        machine.write()
        machine.sample()

    def first_seq() -> int:
        history = Records([(m.seq, m.ts_ns, True) for m, _ in machine.made], machine.steps)
        return plan(policy, history, [], Ages(machine.samples, machine.now(), machine.steps)).first_seq

    before = first_seq()
    machine.wall_ns += jump_ns
    assert first_seq() <= before
    machine.sample()
    machine.write()
    machine.sample()
    assert first_seq() <= before
    if and_back:
        machine.wall_ns -= jump_ns
        machine.write()
        assert first_seq() <= before


def test_what_is_older_than_the_first_sample_counts_by_the_latest_time_shown():
    ages = Ages([], Sample(9, 0, T0 + 100 * NS), [ClockStep(5, T0 + YEAR, T0 + 50 * NS)])
    assert ages.age_ns(Moment(3, T0)) == 100 * NS
    assert ages.age_ns(Moment(4, T0 + YEAR)) == 0
    assert ages.age_ns(Moment(5, T0 + 50 * NS)) == 0       # the wrong clock may have been the one of before


def test_samples_are_bounded():
    samples: list[Sample] = []
    for n in range(2000):
        samples = joined(samples, Sample(n, n * NS, T0 + n * 10 * NS))
    assert len(samples) == 500 and samples[0].seq == 0 and samples[-1].seq == 1999
    assert not agree(samples[0], samples[1])

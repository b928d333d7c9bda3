"""What the operations on retention answer: policies, plans, pins, space, as JSON (cdp.views).

Any thread.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from cdp.moments import policy as policies
from cdp.moments.policy import DAY_NS, Policy
from cdp.store import space as spaces
from cdp.text.sizes import approx_size
from cdp.text.timestamps import utc
from cdp.views import (
    FreeingView,
    KeepingView,
    KeptView,
    MomentView,
    PinView,
    PlanView,
    PolicyView,
    PruneView,
    SpaceView,
)
from cdpcore.base.errors import InvalidRequest, RefusedPoint

if TYPE_CHECKING:
    from cdp import Moment, Volume
    from cdp.moments.retention import Pin, Plan

ASK_SHARE = 10      # a policy that frees more than a tenth of the history is asked about


def moment_view(moment: Moment) -> MomentView:
    return MomentView(seq=int(moment.seq), ts_ns=int(moment.ts_ns), time=utc(moment.ts_ns))


def pin_view(pin: Pin) -> PinView:
    return PinView(kind=pin.kind, owner=pin.owner, reason=pin.reason, at=moment_view(pin.at), left_ns=pin.left_ns)


def policy_view(volume: Volume) -> PolicyView:
    keeper = volume.policy_keeper
    policy, report, admitted, counts = keeper.policy, keeper.report(), keeper.admitted, volume.stats()
    return PolicyView(
        policy=policies.to_toml(policy) if policy else None, keep=policy.rules if policy else [],
        floor_ns=policy.floor_ns if policy else None, undo_ns=policy.undo_ns if policy else None,
        limit_bytes=policy.limit_bytes if policy else None,
        when_full=policy.when_full if policy and policy.limit_bytes is not None else None,
        last_run=utc(report.last_run_ns) if report.last_run_ns else None, next_run_ns=report.next_run_ns,
        freed_bytes=report.freed_bytes, failed=report.failed or keeper.damaged or None, writes=admitted.writes,
        room_bytes=admitted.room_bytes, rate_bytes=admitted.rate_bytes or None, refused=counts["limit_refused_writes"],
        slowed=counts["limit_slowed_writes"])


def freeing_view(volume: Volume) -> FreeingView | None:
    left = volume.freeing()
    return None if left is None else FreeingView(start=moment_view(left.start), bytes_left=left.bytes_left,
                                                 folded_percent=left.folded_percent)


def plan_view(volume: Volume, policy: Policy | None) -> PlanView:
    """What a policy (None: the volume's) keeps of the volume now, and what applying it would free."""
    keeper = volume.policy_keeper
    plan, history, ages = keeper.plan(policy)
    used = policy or keeper.policy
    assert used is not None
    start = history.moment(plan.start_seq)
    rate = spaces.growth(history, ages)
    lost = [mark.name for mark in volume.bookmarks() if mark.at.seq < start.seq]
    return PlanView(
        keep=used.rules, limit_bytes=used.limit_bytes,
        when_full=None if used.limit_bytes is None else used.when_full, oldest=moment_view(history.oldest),
        newest=moment_view(history.newest), start=moment_view(start),
        needed=moment_view(history.moment(plan.first_seq)), whole=moment_view(history.moment(plan.whole_seq)),
        kept=_kept(plan),
        pins=[pin_view(pin) for pin in plan.pins], held_by=plan.held_by,
        history_bytes=history.total_bytes, freed_bytes=plan.freed_bytes,
        thinned_bytes=keeper.thinned_bytes(used, plan), over_bytes=plan.over_bytes,
        limited=plan.limited, records_lost=start.seq - history.oldest.seq, bookmarks_lost=lost,
        bytes_a_day=None if rate is None else int(rate),
        days_in_limit=round(used.limit_bytes / rate, 2) if used.limit_bytes is not None and rate else None,
        cannot=keeper.cannot(used))


def keeping_view(volume: Volume) -> KeepingView:
    """What is kept now, without what it would free, which takes longer."""
    keeper = volume.policy_keeper
    if keeper.policy is None:
        return KeepingView(keep=[], kept=[], needed=None)
    plan, history, _ = keeper.plan()
    return KeepingView(keep=keeper.policy.rules, kept=_kept(plan), needed=moment_view(history.moment(plan.first_seq)))


def _kept(plan: Plan) -> list[KeptView]:
    return [KeptView(rule=kept.rule, points=kept.points, oldest=moment_view(kept.oldest),
                     newest=moment_view(kept.newest)) for kept in plan.kept]


def simulate(volume: Volume, text: str | None) -> PlanView:
    """text: a policy in TOML; None: the volume's own."""
    return plan_view(volume, None if text is None else policies.parse(text))


def set_policy(volume: Volume, text: str | None, yes: bool) -> PolicyView:
    """text: TOML; None: no policy from now on. Raises InvalidRequest for what is no policy or cannot be carried out,
    RefusedPoint where much would be freed and `yes` is not said."""
    keeper = volume.policy_keeper
    if text is None:
        volume.set_policy(None)
        return policy_view(volume)
    policy = policies.parse(text)
    if why := keeper.cannot(policy):
        raise InvalidRequest(f"{volume.path}: {why}",
                             "write one rule, for instance 'all for 7d'; --simulate shows what more would keep")
    if not yes:
        view = plan_view(volume, policy)
        if asks(view):
            raise RefusedPoint(f"{volume.path}: {losses(view)}", "look at it with --simulate; --yes sets it")
    volume.set_policy(text)
    return policy_view(volume)


def asks(view: PlanView) -> bool:
    """Whether so much would go that it has to be confirmed."""
    return (view["freed_bytes"] + (view["thinned_bytes"] or 0)) * ASK_SHARE > view["history_bytes"]


def losses(view: PlanView) -> str:
    """What a policy would free, in words."""
    marks = view["bookmarks_lost"]
    named = f", bookmark{'s' if len(marks) > 1 else ''} {', '.join(marks[:3])}" if marks else ""
    more = f" and {len(marks) - 3} more" if len(marks) > 3 else ""
    parts = []
    if view["freed_bytes"]:
        parts.append(f"everything before #{view['start']['seq']}, {view['start']['time']}{named}{more}")
    if view["thinned_bytes"]:
        parts.append(f"about {approx_size(view['thinned_bytes'])} that only moments between the kept ones show")
    gone = view["freed_bytes"] + (view["thinned_bytes"] or 0)
    return (f"this policy would give up {approx_size(gone)} of {approx_size(view['history_bytes'])} of history: "
            f"{', and '.join(parts)}")


def prune(volume: Volume, dry_run: bool) -> PruneView:
    """Apply the volume's policy now."""
    window, thinned = volume.window(), volume._store.thinned
    before, end = window.oldest, window.newest.seq
    planned, freed = volume.prune(dry_run)
    start = freed.start.seq
    lost = volume.policy_keeper.thins(planned, start) if dry_run else \
        thinned.openable(start, end) - volume._store.thinned.openable(start, end)
    return PruneView(dry_run=dry_run, before=moment_view(before), start=moment_view(freed.start),
                     freed_bytes=freed.freed_bytes, moments_thinned=lost,
                     held_by=[*planned.held_by, *(hold.what for hold in freed.holds)])


def space_view(volume: Volume) -> SpaceView:
    """What the volume takes, how fast its history grows, and where that ends."""
    keeper, used = volume.policy_keeper, volume.usage()
    history, ages = keeper.history()
    rate = spaces.growth(history, ages)
    policy = keeper.policy
    limit = policy.limit_bytes if policy else None
    span_ns = policy.tiers[-1].span_ns if policy else None
    levels = None if span_ns is None or rate is None else int(rate * span_ns / DAY_NS)
    return SpaceView(
        total_bytes=used.total, log_bytes=used.log, log_ahead_bytes=used.log_ahead, index_bytes=used.index,
        base_bytes=used.base, images_bytes=used.images, catalog_bytes=used.catalog, reserve_bytes=used.reserve,
        other_bytes=used.other, device_free_bytes=used.device_free, device_bytes=used.device_size,
        history_bytes=history.total_bytes, bytes_a_day=None if rate is None else int(rate), limit_bytes=limit,
        levels_off_bytes=levels,
        days_to_limit=None if limit is None else _days(limit - history.total_bytes, rate, levels, history.total_bytes),
        days_to_full=_days(used.device_free, rate, levels, history.total_bytes))


def _days(room: int, rate: float | None, levels: int | None, history: int) -> float | None:
    """Until so much room is used up; None: not known, or never."""
    if room <= 0:
        return 0.0
    if not rate or levels is not None and levels - history <= room:
        return None
    return round(room / rate, 2)

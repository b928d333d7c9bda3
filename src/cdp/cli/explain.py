"""explain: how a point is understood; and how a moment and a point are printed by every command."""
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, emit, fields
from cdp.cli.refs import volume_and_point
from cdp.text.sizes import approx_duration
from cdp.text.timestamps import NS, local_utc_and_age, utc

if TYPE_CHECKING:
    from cdp.views import ExplanationView, MomentView, WindowView

MOST_STEPS = 3     # of the clock, that are shown


def moment_text(moment: "MomentView") -> str:
    """`#123  2026-11-23T11:00:00.1+01:00 (10:00:00.1Z, 5 s ago)`."""
    return f"#{moment['seq']}  {local_utc_and_age(moment['ts_ns'])}"


@command(cli, "explain", examples=[
    ("cdp explain web@-10m", "which write was the last one ten minutes ago"),
    ("cdp explain web@2026-11-23T10:00:00Z", "the same for a time; a time without a zone is local"),
    ("cdp explain 'web@#4711'", "by sequence number; quote the # for the shell"),
], exit_codes=POINT_EXITS)
@click.argument("volume_at_point", metavar="VOLUME@POINT")
def explain(state: State, volume_at_point: str) -> None:
    """Say how a point is understood, without opening it."""
    location, point = volume_and_point(volume_at_point, "explain")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got, window = service.explain(point), service.window()
    emit(state, got, fields(volume_at_point, [*explanation_pairs(got), *clock_pairs(window)]))


def explanation_pairs(got: "ExplanationView") -> list[tuple[str, str]]:
    """How a point was understood, in plain words."""
    resolved, following = got["resolved"], got["next"]
    pairs = []
    if got["asked_ts_ns"] is not None:
        pairs.append(("you asked for", local_utc_and_age(got["asked_ts_ns"])))
    if (asked := got["not_kept"]) is not None:
        pairs.append(("not kept", f"#{asked['seq']}, {local_utc_and_age(asked['ts_ns'])}, which was thinned"))
    how = {"now": ", the newest record", "seq": "", "bookmark": ", which the bookmark names"}
    what = how.get(got["kind"], ", the last record at or before it")
    if asked is not None:
        what = ", the kept moment before that"
    if resolved["seq"] == 0:
        what = ", the volume as it was made"
    pairs.append(("it means", f"#{resolved['seq']}{what}, {local_utc_and_age(resolved['ts_ns'])}"))
    for other in got["other_readings"]:
        pairs.append(("less likely", (f"#{other['seq']}, {local_utc_and_age(other['ts_ns'])}: the clock was set back, "
                      "and may have shown that time twice")))
    if following is None:
        pairs.append(("next record", "none: this is the newest state"))
    else:
        later_ns = following["ts_ns"] - resolved["ts_ns"]
        later = f"{_span(later_ns)} later" if later_ns >= 0 else f"with the clock set {_span(-later_ns)} back"
        pairs.append(("next record", f"#{following['seq']}, {later}, {local_utc_and_age(following['ts_ns'])}"))
    pairs.append(("durable", _durability(got)))
    pairs += [("kept by", what) for what in got["kept_by"]]
    return pairs


def _durability(got: "ExplanationView") -> str:
    """Of what the point shows: flushed by the client; on disk, though the client had not flushed; or in memory."""
    if got["flush_durable"]:
        return "yes: all of it had been flushed"
    last = got["last_flush"]
    since = f"since #{last['seq']}, {local_utc_and_age(last['ts_ns'])}" if last else "by then"
    if got["durability"] == "memory":
        return f"not yet: only in memory; the client had not flushed {since}"
    return f"yes: on disk, though the client had not flushed {since}"


def thinned_pairs(got: "WindowView") -> list[tuple[str, str]]:
    """Where only some moments can be opened."""
    if (thinned := got["thinned"]) is None:
        return []
    span = f"{moment_text(thinned['first'])} to {moment_text(thinned['last'])}"
    return [("thinned", f"{span}: {thinned['points']} of these moments are kept")]


def clock_pairs(got: "WindowView") -> list[tuple[str, str]]:
    """Where the clock went back; and that it is behind."""
    pairs = []
    steps = got["clock_steps"]
    if len(steps) > MOST_STEPS:
        pairs.append(("clock", f"was set back {len(steps)} times; the last {MOST_STEPS}:"))
    for step in steps[-MOST_STEPS:]:
        pairs.append(("clock set back", f"at {moment_text(step['after'])}, after {utc(step['before']['ts_ns'])}"))
    if got["clock_behind_ns"] >= NS:
        pairs.append(("clock now", (f"{approx_duration(got['clock_behind_ns'])} behind the newest record: it was ahead "
                      "once, or is wrong now")))
    return pairs


def _span(ns: int) -> str:
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}" if ns < 100 * scale else f"{ns // scale} {unit}"
    return f"{ns} ns"

"""policy: what is kept of a volume's history, and for how long."""
import sys
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.explain import moment_text
from cdp.cli.output import say
from cdp.cli.pins import left_text
from cdp.cli.refs import volume_only
from cdp.text import sizes as units
from cdpcore.base.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cdp.views import PlanView, PolicyView

MOST_BYTES = 1 << 16    # of a policy file
MOST_PINS = 5           # that are shown


@command(cli, "policy", examples=[
    ("cdp policy web", "the policy, and what was done"),
    ("cdp policy web --keep 'all for 48h' --limit 200GiB --simulate", "what such a policy would keep and free"),
    ("cdp policy web set web.toml", "the policy of a file from now on"),
    ("cdp policy web clear", "keep everything again"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.argument("action", type=click.Choice(["show", "set", "clear"]), required=False)
@click.argument("file", required=False)
@click.option("--keep", multiple=True, metavar="RULE", help="A rule, such as 'all for 48h'; may be repeated.")
@click.option("--floor", metavar="SPAN", help="What is younger stays, whatever the limit says.")
@click.option("--undo", metavar="SPAN", help="So long a restore can be undone.")
@click.option("--limit", metavar="SIZE", help="What the history may take.")
@click.option("--when-full", metavar="WHAT", help="What happens at the limit: thin, throttle or refuse.")
@click.option("--simulate", is_flag=True, help="Say what it would keep and free, and change nothing.")
@click.option("--yes", is_flag=True, help="Also where more than a tenth of the history goes.")
def policy(state: State, volume: str, action: str | None, file: str | None, keep: tuple[str, ...], floor: str | None,
           undo: str | None, limit: str | None, when_full: str | None, simulate: bool, yes: bool) -> None:
    """What is kept of a volume's history, and for how long.

    A policy is a file in TOML (see docs/retention.md) or --keep with its like. Without one, everything is kept.
    --simulate plays it over what the volume has. A policy that frees more than a tenth of the history has to be
    confirmed. There is no undo of what a policy gives up.
    """
    location = volume_only(volume, "policy")
    given: dict[str, Any] = {name: value for name, value in (
        ("keep", list(keep)), ("floor", floor), ("undo", undo), ("limit", limit), ("when_full", when_full)) if value}
    text = _policy_text(action, file, given)
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        if simulate:
            plan = service.simulate(text)
            emit(state, plan, plan_lines(location.text, plan))
            return
        if action == "clear":
            service.set_policy(None)
        elif text is not None:
            service.set_policy(text, yes or _confirmed(state, location.text, service.simulate(text)))
        got = service.policy()
    emit(state, got, policy_lines(location.text, got))
    if action == "clear":
        note("everything is kept from now on")
    elif text is not None and len([rule for rule in got["keep"] if not rule.startswith("bookmarks ")]) > 1:
        note("from the first time on that moments of the middle go, 'cdp backup' and 'cdp archive' refuse the volume")


def _policy_text(action: str | None, file: str | None, given: dict[str, Any]) -> str | None:
    """The policy that is meant, in TOML; None: the volume's own."""
    from cdp.moments import policy as policies

    if action != "set" and file is not None or action in ("show", "clear") and given:
        raise InvalidRequest(f"{action or file} goes without more", "write 'cdp policy VOLUME set FILE', or --keep")
    if action == "set":
        if file is None or given:
            raise InvalidRequest("set takes a file, and nothing else", "write 'cdp policy VOLUME set FILE', or --keep")
        return policies.to_toml(policies.parse(_read(file), file))
    if not given:
        return None
    if "keep" not in given:
        raise InvalidRequest("a policy says what to keep", "add, for instance, --keep 'all for 48h'")
    return policies.to_toml(policies.from_table(given, lambda key: f"--{key.replace('_', '-')}"))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES).decode()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such policy file", "check the path") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path}: not text in UTF-8", "write TOML, as docs/retention.md shows") from None


def _confirmed(state: State, name: str, plan: "PlanView") -> bool:
    """Whether a person at a terminal says so, where much would go. Elsewhere the service refuses without --yes."""
    from cdp.service.retention import asks

    if state.as_json or plan["cannot"] or not asks(plan) or not sys.stdin.isatty():
        return False
    for line in plan_lines(name, plan):
        say(line)
    return click.confirm("Set this policy?", err=True)


def policy_lines(name: str, got: "PolicyView") -> list[str]:
    """A policy and what was done, for people."""
    if got["policy"] is None:
        lines = fields(f"{name}: no retention policy: everything is kept", [])
        return lines if got["failed"] is None else [*lines, f"  failed  {got['failed']}"]
    return fields(f"{name}: the retention policy", policy_pairs(got))


def policy_pairs(got: "PolicyView") -> list[tuple[str, str]]:
    from cdp.moments.policy import span_text

    pairs = [("keep", rule) for rule in got["keep"]]
    if got["floor_ns"] is not None and got["undo_ns"] is not None:
        pairs += [("floor", span_text(got["floor_ns"])), ("undo", span_text(got["undo_ns"]))]
    if got["limit_bytes"] is not None:
        pairs.append(("limit", f"{units.format_size(got['limit_bytes'])}, when full {got['when_full']}"))
    pairs.append(("last run", f"{got['last_run'] or 'never'}, {units.approx_size(got['freed_bytes'])} freed in all"))
    if got["next_run_ns"] is not None:
        pairs.append(("next run", f"in {units.approx_duration(got['next_run_ns']) or '0 ms'}, while it is open"))
    if got["writes"] == "refused":
        pairs.append(("writes", f"refused: the history has reached its limit ({got['refused']} since it was opened)"))
    elif got["rate_bytes"] is not None and got["room_bytes"] is not None:
        rate, left = (units.approx_size(size) for size in (got["rate_bytes"], got["room_bytes"]))
        pairs.append(("writes", f"slowed to {rate}/s: {left} left to the limit"))
    if got["failed"]:
        pairs.append(("failed", got["failed"]))
    return pairs


def plan_lines(name: str, got: "PlanView") -> list[str]:
    """What a policy would keep and free, for people."""
    pairs = []
    for kept in got["kept"]:
        many = f"{kept['points']} point{'' if kept['points'] == 1 else 's'}"
        pairs.append((kept["rule"], f"{many}, from {moment_text(kept['oldest'])}"))
    pins = got["pins"]
    for pin in pins[:MOST_PINS]:
        pairs.append((pin["kind"], f"{pin['owner']} holds #{pin['at']['seq']} for {left_text(pin)}: {pin['reason']}"))
    if len(pins) > MOST_PINS:
        pairs.append(("pins", f"{len(pins)} in all: see 'cdp pins'"))
    pairs += [("held by", what) for what in got["held_by"]]
    pairs.append(("oldest then", moment_text(got["start"])))
    pairs.append(("freed", f"{units.approx_size(got['freed_bytes'])} of {units.approx_size(got['history_bytes'])}"))
    if got["thinned_bytes"] is not None:
        thinned = units.approx_size(got["thinned_bytes"])
        pairs.append(("thinned", f"about {thinned} of the rest, which no kept point shows"))
    lost = f"{got['records_lost']} records" if got["records_lost"] else "nothing"
    marks = got["bookmarks_lost"]
    pairs.append(("lost", lost + (f", bookmarks {', '.join(marks)}" if marks else "")))
    pairs.append(("growth", "not known yet" if got["bytes_a_day"] is None else
                  f"{units.approx_size(got['bytes_a_day'])} a day"))
    if got["limit_bytes"] is not None:
        days = got["days_in_limit"]
        fits = "" if days is None else f": {days:.1f} days fit in it at that rate"
        over = f", {units.approx_size(got['over_bytes'])} too much even then" if got["over_bytes"] else ""
        if over and got["when_full"] != "thin":
            over += ": writes are refused"
        pairs.append(("limit", units.approx_size(got["limit_bytes"]) + fits + over))
        if got["limited"]:
            pairs.append(("", "the limit takes what the rules would keep"))
    if got["cannot"]:
        pairs.append(("not yet", got["cannot"]))
    return fields(f"{name}: with such a policy, now", pairs)

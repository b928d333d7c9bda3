"""The retention policy of a volume: what is kept for how long, as a user writes it.

    keep      = ["all for 48h", "1m for 7d", "1h for 90d", "1d for 2y", "bookmarks 'release-*' forever"]
    floor     = "24h"           # nothing that is younger goes, whatever the limit says
    undo      = "7d"            # so long a restore can be undone
    limit     = "200GiB"        # of the history
    when_full = "thin"          # what happens at the limit: thin, throttle or refuse

A *tier* is a line of `keep` with an interval: `1m for 7d` keeps one moment of each *slot* of a minute, for seven days.
Slots are counted from 1970-01-01T00:00Z, so they begin at whole minutes, hours and days of UTC. `all` keeps every
record. Units: s, m (minutes), h, d, y (365 days). There is no default for what is not said but for `floor`, `undo` and
`when_full`.

Invariants of a Policy
  1. The first tier is `all`. Each further interval is a multiple of the one before, and larger; each span is longer.
     So what a tier keeps, the ones before it had kept: a point that is gone is never asked for later.
  2. floor_ns is at most the span of `all`.

Pure functions.
"""
from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from cdp.text.sizes import format_size, parse_size
from cdpcore.base.errors import InvalidRequest

NS = 10**9
UNITS_NS = {"s": NS, "m": 60 * NS, "h": 3600 * NS, "d": 86400 * NS, "y": 365 * 86400 * NS}
THIN, THROTTLE, REFUSE = "thin", "throttle", "refuse"
WHEN_FULL = (THIN, THROTTLE, REFUSE)
DAY_NS = UNITS_NS["d"]
FLOOR_NS, UNDO_NS = DAY_NS, 7 * DAY_NS      # where nothing is said; the floor is at most what `all` says
LONGEST_NS = 1000 * UNITS_NS["y"]
LEAST_LIMIT_BYTES = 64 << 20
KEYS = ("keep", "floor", "undo", "limit", "when_full")
EXAMPLE = 'write, for instance, keep = ["all for 48h"]'
_SPAN = re.compile(r"([1-9]\d{0,9})(s|m|h|d|y)")
_TIER = re.compile(r"(\S+) (?:for (\S+)|(forever))")
_BOOKMARKS = re.compile(r"bookmarks (?:'([^']+)'|\"([^\"]+)\") (?:for (\S+)|(forever))")


@dataclass(frozen=True)
class Tier:
    """interval_ns 0: every record. span_ns None: forever."""

    interval_ns: int
    span_ns: int | None

    @property
    def text(self) -> str:
        every = "all" if not self.interval_ns else span_text(self.interval_ns)
        return f"{every} {_for(self.span_ns)}"


@dataclass(frozen=True)
class BookmarkRule:
    """Bookmarks whose name fits `pattern` (* and ?) are pins; span_ns after they were made no longer; None: forever."""

    pattern: str
    span_ns: int | None

    @property
    def text(self) -> str:
        return f"bookmarks '{self.pattern}' {_for(self.span_ns)}"

    def fits(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


@dataclass(frozen=True)
class Policy:
    """tiers: the first one is `all`. floor_ns, undo_ns; limit_bytes None: no limit."""

    tiers: tuple[Tier, ...]
    bookmarks: tuple[BookmarkRule, ...] = ()
    floor_ns: int = FLOOR_NS
    undo_ns: int = UNDO_NS
    limit_bytes: int | None = None
    when_full: str = THIN

    @property
    def rules(self) -> list[str]:
        """The lines of `keep`."""
        return [*(tier.text for tier in self.tiers), *(rule.text for rule in self.bookmarks)]

    def rule_of(self, bookmark: str) -> BookmarkRule | None:
        """Which rule makes a pin of a bookmark: of those that fit, the one that keeps it longest."""
        fitting = [rule for rule in self.bookmarks if rule.fits(bookmark)]
        return max(fitting, key=lambda rule: LONGEST_NS if rule.span_ns is None else rule.span_ns, default=None)


def parse(text: str, where: str = "policy") -> Policy:
    """The policy that a TOML text says. `where`: the file's name, for messages. Raises InvalidRequest."""
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{where}: not TOML: {error}", EXAMPLE) from None

    def place(key: str) -> str:
        found = re.search(rf"^[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*=", text, re.MULTILINE)
        return f"{where}:{text.count(chr(10), 0, found.start()) + 1}: {key}" if found else f"{where}: {key}"

    return from_table(table, place)


def from_table(table: Mapping[str, Any], place: Any = lambda key: key) -> Policy:
    """The same of what TOML gives. place(key): how messages name where it stands."""
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            raise InvalidRequest(f"{place(key)}: unknown key",
                                 f"did you mean {near[0]}?" if near else f"a policy has {', '.join(KEYS)}")
    tiers, bookmarks = _keep(table.get("keep"), place("keep"))
    whole_ns = LONGEST_NS if tiers[0].span_ns is None else tiers[0].span_ns
    floor_ns = _span(table["floor"], place("floor")) if "floor" in table else min(FLOOR_NS, whole_ns)
    if floor_ns > whole_ns:
        _refuse(f"{place('floor')} = {table['floor']!r} is longer than {tiers[0].text!r}",
                f"the floor is the youngest part of what is kept whole: lower it, or write 'all for "
                f"{span_text(floor_ns)}'")
    undo_ns = _span(table["undo"], place("undo")) if "undo" in table else UNDO_NS
    limit_bytes = _limit(table["limit"], place("limit")) if "limit" in table else None
    when_full = table.get("when_full", THIN)
    if when_full not in WHEN_FULL:
        _refuse(f"{place('when_full')} = {when_full!r} is not known",
                f"write {', '.join(WHEN_FULL[:-1])} or {WHEN_FULL[-1]}")
    if limit_bytes is None and "when_full" in table:
        _refuse(f"{place('when_full')}: there is no limit", 'add one, such as limit = "200GiB", or leave when_full out')
    return Policy(tiers, bookmarks, floor_ns, undo_ns, limit_bytes, when_full)


def _keep(lines: object, where: str) -> tuple[tuple[Tier, ...], tuple[BookmarkRule, ...]]:
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        _refuse(f"{where} is not a list of rules" if lines is not None else f"{where} is missing", EXAMPLE)
    tiers: list[Tier] = []
    bookmarks: list[BookmarkRule] = []
    for line in lines:
        what = f"{where}: {line!r}"
        if found := _BOOKMARKS.fullmatch(line):
            bookmarks.append(BookmarkRule(found[1] or found[2], None if found[4] else _span(found[3], what)))
        elif line.startswith("bookmarks"):
            _refuse(f"{what} is not a rule", "write, for instance, \"bookmarks 'release-*' forever\"")
        elif found := _TIER.fullmatch(line):
            tier = Tier(0 if found[1] == "all" else _span(found[1], what), None if found[3] else _span(found[2], what))
            _check_follows(tiers, tier, what)
            tiers.append(tier)
        else:
            _refuse(f"{what} is not a rule", "write 'all for 48h', '1h for 90d' or \"bookmarks 'release-*' forever\"")
    if not tiers:
        _refuse(f"{where}: no rule keeps what was written last", "begin with 'all for ...', for instance 'all for 48h'")
    return tuple(tiers), tuple(bookmarks)


def _check_follows(before: list[Tier], tier: Tier, what: str) -> None:
    if not before:
        if tier.interval_ns:
            _refuse(f"{what}: the first rule has to keep all", "begin with 'all for ...', for instance 'all for 48h'")
        return
    last = before[-1]
    if not tier.interval_ns:
        _refuse(f"{what}: 'all' is there already", "leave one of the two out")
    if tier.interval_ns <= last.interval_ns:
        _refuse(f"{what}: the interval is not longer than that of {last.text!r}", "write short intervals first")
    if last.interval_ns and tier.interval_ns % last.interval_ns:
        _refuse(f"{what}: {span_text(tier.interval_ns)} is not a multiple of {span_text(last.interval_ns)}",
                "or a kept point of one rule would be missing for the next: choose intervals such as 1m, 1h, 1d")
    if last.span_ns is None or tier.span_ns is not None and tier.span_ns <= last.span_ns:
        _refuse(f"{what}: it would keep nothing that {last.text!r} does not keep",
                "write a longer span, or leave it out")
    if tier.span_ns is not None and tier.span_ns < tier.interval_ns:
        _refuse(f"{what}: the span is shorter than the interval", "exchange the two")


def _span(value: object, what: str) -> int:
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if not found:
        _refuse(f"{what}: {value!r} is not a time span", "write a whole number and s, m, h, d or y: 30m, 48h, 90d")
    ns = int(found[1]) * UNITS_NS[found[2]]
    if ns > LONGEST_NS:
        _refuse(f"{what}: {value!r} is longer than 1000 years", "write forever")
    return ns


def span(text: str, what: str) -> int:
    """Nanoseconds of `30m`, `48h`, `90d`; `what` names it in messages. Raises InvalidRequest."""
    return _span(text, what)


def _limit(value: object, what: str) -> int:
    if not isinstance(value, str):
        _refuse(f"{what} = {value!r} is not a size", 'write, for instance, limit = "200GiB"')
    limit = parse_size(value, what)
    if limit < LEAST_LIMIT_BYTES:
        _refuse(f"{what} = {value!r} is too small", f"write {format_size(LEAST_LIMIT_BYTES)} or more")
    return limit


def _refuse(message: str, hint: str) -> NoReturn:
    raise InvalidRequest(message, hint)


def span_text(span_ns: int) -> str:
    """As it is parsed: the largest unit that divides it; days at most, and no days for less than three."""
    for unit in ("y", "d", "h", "m"):
        if span_ns % UNITS_NS[unit] == 0 and (unit != "d" or span_ns >= 3 * DAY_NS or span_ns == DAY_NS):
            return f"{span_ns // UNITS_NS[unit]}{unit}"
    return f"{span_ns // NS}s"


def _for(span_ns: int | None) -> str:
    return "forever" if span_ns is None else f"for {span_text(span_ns)}"


def to_toml(policy: Policy) -> str:
    """The text of a policy; parse() gives the same one back."""
    quoted = ", ".join(f'"{rule}"' for rule in policy.rules)
    lines = [f"keep = [{quoted}]", f'floor = "{span_text(policy.floor_ns)}"', f'undo = "{span_text(policy.undo_ns)}"']
    if policy.limit_bytes is not None:
        lines += [f'limit = "{format_size(policy.limit_bytes)}"', f'when_full = "{policy.when_full}"']
    return "\n".join(lines) + "\n"

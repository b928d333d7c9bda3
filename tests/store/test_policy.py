"""The language of retention policies: what is a policy, what is refused, and with which words."""
from __future__ import annotations

import re

import pytest

from cdp.moments import policy as policies
from cdp.moments.policy import NS, Policy, Tier, parse, to_toml
from cdpcore.base.errors import InvalidRequest

HOUR, DAY = 3600 * NS, 86400 * NS
FULL = '''
keep  = ["all for 48h", "1m for 7d", "1h for 90d", "1d for 2y", "bookmarks 'release-*' forever"]
floor = "24h"          # no limit, no flood and no mistake takes this
undo  = "3d"
limit = "200GiB"
when_full = "refuse"
'''


def test_the_whole_language():
    policy = parse(FULL)
    assert policy.tiers == (Tier(0, 48 * HOUR), Tier(60 * NS, 7 * DAY), Tier(HOUR, 90 * DAY), Tier(DAY, 730 * DAY))
    assert policy.bookmarks[0].fits("release-1") and not policy.bookmarks[0].fits("old-release-1")
    assert (policy.floor_ns, policy.undo_ns, policy.limit_bytes, policy.when_full) == (
        DAY, 3 * DAY, 200 << 30, "refuse")
    assert policy.rules == ["all for 48h", "1m for 7d", "1h for 90d", "1d for 2y", "bookmarks 'release-*' forever"]


@pytest.mark.parametrize("text", [FULL, 'keep = ["all for 90s"]', 'keep = ["all forever"]\nfloor="1000y"',
                                  'keep = ["all for 3m", "10s for 15m"]', 'keep = ["all for 36h", "1d forever"]',
                                  "keep = ['all for 1d', 'bookmarks \"a\" for 30d', \"bookmarks 'b' for 36h\"]"])
def test_a_policy_is_written_as_it_is_read(text: str):
    assert parse(to_toml(parse(text))) == parse(text)


def test_defaults_are_few():
    assert parse('keep = ["all for 12h"]') == Policy((Tier(0, 12 * HOUR),), floor_ns=12 * HOUR, undo_ns=7 * DAY)
    assert parse('keep = ["all forever"]').floor_ns == DAY


def test_of_rules_that_fit_a_bookmark_the_longest_counts():
    policy = parse('''keep = ["all for 1h", "bookmarks 'a*' for 30d", "bookmarks '*' for 2d",
                               "bookmarks 'ab' forever"]''')
    assert [policy.rule_of(name).span_ns for name in ("ab", "ac", "x")] == [None, 30 * DAY, 2 * DAY]
    assert parse('keep = ["all for 1h"]').rule_of("x") is None


@pytest.mark.parametrize(("text", "says"), [
    ("keep = [", "policy: not TOML"),
    ("", "policy: keep is missing; .*all for 48h"),
    ("keep = []", "policy:1: keep is not a list of rules"),
    ("keep = 'all for 48h'", "policy:1: keep is not a list of rules"),
    ("keep = [48]", "not a list of rules"),
    ("\nkep = ['all for 48h']", "policy:2: kep: unknown key; did you mean keep"),
    ("[retention]\nkeep = ['all for 48h']", "unknown key"),
    ("keep = ['1m for 7d']", "the first rule has to keep all"),
    ("keep = [\"bookmarks 'x' forever\"]", "no rule keeps what was written last"),
    ("keep = ['all for 48h', 'all for 3d']", "'all' is there already"),
    ("keep = ['all for 48h', '1h for 7d', '1m for 90d']", "not longer than that of '1h for 7d'"),
    ("keep = ['all for 48h', '1h for 7d', '1h for 90d']", "not longer than"),
    ("keep = ['all for 48h', '2h for 7d', '3h for 90d']", "3h is not a multiple of 2h"),
    ("keep = ['all for 48h', '1m for 36h']", "would keep nothing that 'all for 48h' does not keep"),
    ("keep = ['all forever', '1m for 36h']", "would keep nothing"),
    ("keep = ['all for 1h', '1d for 12h']", "the span is shorter than the interval"),
    ("keep = ['all for 48']", "'48' is not a time span"),
    ("keep = ['all for 1.5h']", "'1.5h' is not a time span"),
    ("keep = ['all for 0h']", "not a time span"),
    ("keep = ['all for 1w']", "not a time span"),
    ("keep = ['all  for 1h']", "is not a rule"),
    ("keep = ['last 7 for 1h']", "is not a rule"),
    ("keep = ['all for 1h', 'bookmarks x forever']", "is not a rule; .*release"),
    ("keep = ['all for 2000y']", "longer than 1000 years"),
    ("keep = ['all for 1h']\nfloor = '2h'", "policy:2: floor = '2h' is longer than 'all for 1h'"),
    ("keep = ['all for 1h']\nfloor = 3600", "3600 is not a time span"),
    ("keep = ['all for 1h']\nlimit = 5", "policy:2: limit = 5 is not a size"),
    ("keep = ['all for 1h']\nlimit = '1K'", "is too small; write 64MiB or more"),
    ("keep = ['all for 1h']\nlimit = 'much'", "is not a size"),
    ("keep = ['all for 1h']\nlimit = '1G'\nwhen_full = 'slow'", "'slow' is not known; write thin, throttle or refuse"),
    ("keep = ['all for 1h']\nwhen_full = 'thin'", "there is no limit"),
])
def test_what_is_not_a_policy_is_refused_and_said_where(text: str, says: str):
    with pytest.raises(InvalidRequest) as raised:
        parse(text)
    said = f"{raised.value.message}; {raised.value.hint}"
    assert re.search(says, said), said
    assert raised.value.hint


@pytest.mark.parametrize(("span_ns", "text"), [(NS, "1s"), (90 * NS, "90s"), (DAY, "1d"), (2 * DAY, "48h"),
                                               (7 * DAY, "7d"), (365 * DAY, "1y"), (36 * HOUR, "36h")])
def test_spans_are_written_as_people_do(span_ns: int, text: str):
    assert policies.span_text(span_ns) == text

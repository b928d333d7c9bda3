"""bisect: the last good and the first bad record, found with a command that tells them apart."""
import time
from concurrent.futures import ThreadPoolExecutor
from shlex import quote
from typing import Any

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, note
from cdp.cli.explain import moment_text
from cdp.cli.refs import volume_only
from cdp.moments.bisection import BAD, GOOD, SKIP, search
from cdp.views import MAX_PAGE_ROWS, MomentView, Service
from cdpcore.base.errors import InvalidRequest

CHANGES = "write,zero,trim,restore"


@command(cli, "bisect", examples=[
    ("cdp bisect web before-upgrade now -- ./check {uri}", "what the command exits with says good (0) or bad"),
    ("cdp bisect web -1h now --jobs 4 -- sh -c 'qemu-img info $CDP_URI'", "four probes at a time"),
    ("cdp bisect web -1d now --fsck", "when did the ext4 file system break?"),
    ("cdp bisect web -1d now --file /etc/hosts --sha256 9f86d081...", "when did the file stop being this one?"),
    ("cdp bisect web -1d now --mount -- test -e {dir}/srv/db.tar", "as root: each moment mounted in a folder"),
    ("cdp bisect web -1d now --postgres lib/pg --query 'select count(*) > 0 from orders'", "the rows were there"),
], exit_codes=WRITE_EXITS, context_settings={"ignore_unknown_options": True})
@click.argument("volume")
@click.argument("good")
@click.argument("bad")
@click.argument("test", metavar="-- COMMAND [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--jobs", metavar="N", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Probes at the same time.")
@click.option("--fsck", is_flag=True, help="Instead of a command: e2fsck finds no error once the journal is replayed.")
@click.option("--file", "path", metavar="PATH", help="Instead of a command: this file of the ext4 file system ...")
@click.option("--sha256", metavar="HEX", help="... has this checksum.")
@click.option("--mount", is_flag=True, help="Mount each moment: {dir}, $CDP_DIR. Needs root. Unmountable: bad.")
@click.option("--postgres", metavar="DIR", help="Instead of a command: PostgreSQL starts on its data in this folder of "
              "the file system (needs root) ...")
@click.option("--query", metavar="SQL", help="... and the first value of this is true.")
@click.option("--flushes", is_flag=True, help="Only moments right after a flush, not the records between two.")
@click.option("--name", default="bisect", show_default=True, help="Begin the names of the two bookmarks with it.")
def bisect(state: State, volume: str, good: str, bad: str, test: tuple[str, ...], jobs: int, fsck: bool,
           path: str | None, sha256: str | None, mount: bool, postgres: str | None, query: str | None, flushes: bool,
           name: str) -> None:
    """Find the last good and the first bad record.

    GOOD and BAD are points; both are tried first. COMMAND gets each moment as a writable image of its own, over NBD:
    {uri} in its arguments and $CDP_URI; with --mount also in a folder. The image is deleted afterwards. It exits with 0
    where the moment is good, 1 to 124 where it is bad, and 125 where it cannot tell; anything else ends the search.
    Moments right after a flush come first, as a file system or database leaves them; then the records between two of
    them. A million moments take some 20 probes. Both answers are bookmarked: NAME-SEQ-good and NAME-SEQ-bad.
    """
    location = volume_only(volume, "bisect")
    from cdp.cli.probes import Probes, ready_made
    from cdp.service.connect import connect

    argv = ready_made(test, fsck, path, sha256, postgres, query)
    with connect(location, state.settings) as service:
        first, last = service.explain(good)["resolved"], service.explain(bad)["resolved"]
    if first["seq"] >= last["seq"]:
        raise InvalidRequest(f"{good} (#{first['seq']}) is not before {bad} (#{last['seq']})", "exchange the two")
    mount = mount or postgres is not None
    with Probes(location, state.settings, argv, mount) as probes, connect(location, state.settings) as service:
        run = _Run(probes, jobs)
        _check_ends(run, good, first, bad, last)
        lo, hi = run.narrow(_seqs(service, first["seq"], last["seq"] - 1, "flush"), first["seq"], last["seq"])
        if not flushes:
            changes = _seqs(service, lo, hi, CHANGES)
            # The last change is what the bad moment shows.
            lo, hi = run.narrow(changes[:-1], lo, changes[-1]) if changes else (lo, hi)
        moments = [_moment(service, seq) for seq in (lo, hi)]
        hi = moments[1]["seq"]
        unknown = sorted(seq for seq, answer in run.answers.items() if answer == SKIP and lo < seq < hi)
        marks = [_bookmark(service, f"{name}-{seq}-{what}", seq) for seq, what in ((lo, "good"), (hi, "bad"))]
    _report(state, volume, moments, unknown, marks, run)


class _Run:
    """The probes that were made. One thread, which makes others for them."""

    def __init__(self, probes: Any, jobs: int):
        self._probes, self._jobs = probes, jobs
        self.answers: dict[int, str] = {}
        self.seconds = 0.0

    def probe(self, seqs: list[int]) -> list[str]:
        began_s = time.monotonic()
        with ThreadPoolExecutor(self._jobs) as pool:
            found = list(pool.map(self._probes.probe, seqs))
        self.seconds += time.monotonic() - began_s
        for seq, answer in zip(seqs, found, strict=True):
            self.answers[seq] = answer
            note(f"#{seq} {'cannot be told' if answer == SKIP else f'is {answer}'}")
        return found

    def narrow(self, seqs: list[int], good: int, bad: int) -> tuple[int, int]:
        """The last good and the first bad of some records between two that are known."""
        found = search(len(seqs), lambda chosen: self.probe([seqs[i] for i in chosen]), self._jobs)
        return seqs[found.good] if found.good >= 0 else good, seqs[found.bad] if found.bad < len(seqs) else bad


def _check_ends(run: _Run, good: str, first: MomentView, bad: str, last: MomentView) -> None:
    answers = run.probe([first["seq"], last["seq"]])
    for answer, expected, point, at in zip(answers, (GOOD, BAD), (good, bad), (first, last), strict=True):
        if answer != expected:
            is_now = "not known" if answer == SKIP else answer
            raise InvalidRequest(f"{point} (#{at['seq']}) is {is_now}, and was given as {expected}",
                                 "give another point, or try the command by hand on an image of that moment")


def _seqs(service: Service, after: int, upto: int, kinds: str) -> list[int]:
    """The records after < seq <= upto of some kinds."""
    from cdp.cli.record_writers import rows_of

    found: list[int] = []
    since: str | None = f"#{after}"
    while since is not None and upto > after:
        page, since = service.history(since, f"#{upto}", MAX_PAGE_ROWS, kinds)
        found += rows_of(page)["seq"].tolist()
    return found


def _moment(service: Service, seq: int) -> MomentView:
    """Of a record; where that was thinned, the kept moment after it, which shows what it changed."""
    found = service.explain(f"#{seq}")
    return found["next"] if found["not_kept"] is not None and found["next"] is not None else found["resolved"]


def _bookmark(service: Service, name: str, seq: int) -> str:
    if not any(mark["name"] == name for mark in service.bookmarks()):
        service.bookmark(name, at=f"#{seq}")
    return name


def _report(state: State, volume: str, moments: list[MomentView], unknown: list[int], marks: list[str],
            run: _Run) -> None:
    good, bad = moments
    lines = [f"{volume}: good up to {moment_text(good)}, bad from {moment_text(bad)} on",
             f"  bookmarks:  {marks[0]}, {marks[1]}",
             f"  it changed: cdp diff {quote(volume + '@' + marks[0])} {quote(volume + '@' + marks[1])}",
             f"  look at it: cdp image create {quote(volume + '@' + marks[0])} good"]
    if unknown:
        lines.insert(1, f"  between them {len(unknown)} moments cannot be told: #{unknown[0]} .. #{unknown[-1]}")
    emit(state, {"good": good, "bad": bad, "unknown": unknown, "bookmarks": marks,
                 "probes": [{"seq": seq, "result": answer} for seq, answer in run.answers.items()],
                 "probe_seconds": round(run.seconds, 3)}, lines)

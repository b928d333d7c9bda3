"""check: every checksum of log, runs and catalog; the index rebuilt from the log."""
from typing import TYPE_CHECKING

import click

from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.progress import Progress
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_size
from cdpcore.base.errors import Busy, InvalidRequest

if TYPE_CHECKING:
    from cdp.views import CheckView


@command(cli, "check", setting_flags=ENGINE_KEYS, examples=[
    ("cdp check web", "read everything and verify every checksum; changes nothing"),
    ("cdp check s3://backups/web", "the same of an archive: every object is read"),
    ("cdp check web --rebuild", "make catalog and index anew from the log; the log stays as it is"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME|URL")
@click.option("--rebuild", is_flag=True, help="Make catalog and index anew from the log. Not while it is served.")
@click.pass_context
def check(ctx: click.Context, state: State, volume: str, rebuild: bool) -> None:
    """Verify every checksum of log, index, catalog and disk.

    At once, and as fast as it can: a server does the same in the background (scrub). 'cdp info' shows when that, or a
    check, ended last, and what it found.

    Of the URL of an archive: that every object of its newest manifest is there, with the digest in its name.
    """
    from cdp.archive.places import is_url

    if is_url(volume):
        if rebuild:
            raise InvalidRequest(f"{volume}: an archive has no index", "leave off --rebuild")
        from cdp.cli.archived import check_archive

        if not check_archive(state, volume):
            ctx.exit(exits.CORRUPT)
        return
    location = volume_only(volume, "check")
    from cdp.service.connect import find_server
    from cdp.service.local import report_view

    remote = find_server(location)
    with Progress(f"{'rebuilding' if rebuild else 'checking'} {volume}", quiet=state.as_json) as progress:
        if remote is not None:
            with remote:
                if rebuild:
                    raise Busy(f"{volume} is served", "stop its server, then rebuild")
                got = remote.check()
                note("checked while served: the newest part of the log, not sealed yet, is left out")
        else:
            from cdp.check.check import check as offline_check
            from cdp.check.rebuild import rebuild as offline_rebuild

            work = offline_rebuild if rebuild else offline_check
            got = report_view(work(location.path, settings=state.settings, progress=progress.at))
    emit(state, got, _lines(volume, got, rebuild))
    if not got["ok"]:
        ctx.exit(exits.CORRUPT)


def _lines(volume: str, got: "CheckView", rebuild: bool) -> list[str]:
    count = len(got["problems"])
    verdict = "rebuilt; no problems" if rebuild and got["ok"] else "no problems" if got["ok"] else f"{count} problem(s)"
    lines = fields(f"{volume}: {verdict}", [
        ("segments", str(got["segments"])), ("frames", str(got["frames"])), ("records", str(got["records"])),
        ("runs", str(got["runs"])), ("read", approx_size(got["bytes_read"]))])
    for problem in got["problems"]:
        what = problem["what"].removeprefix(f"{problem['where']}: ")
        lines.append(f"  {problem['where']}: {what}" + (f"; {problem['hint']}" if problem["hint"] else ""))
    return lines

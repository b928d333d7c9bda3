"""Commands on the URL of an archive: its check, and the volume in it, read where it lies."""
import posixpath
import tempfile
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from cdp.cli.base import State, emit, fields
from cdp.cli.progress import Progress
from cdp.text.sizes import approx_size
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.archive.reader import Archive
    from cdp.service.locate import Location

# The commands that read a volume and change nothing.
READS = {"activity", "bookmarks", "cat", "diff", "explain", "export", "files", "history", "info", "records", "restores",
         "serve", "versions", "window"}


def opened(url: str) -> "Archive":
    """What the archive's newest manifest holds."""
    from cdp.archive.places import store_at
    from cdp.archive.reader import Archive

    return Archive(store_at(url))


def at_hand(url: str, verb: str) -> "Location":
    """The volume in an archive, to read while this command runs: its outlines are fetched now, data when it is read."""
    from cdp.archive.direct import DirectArchive
    from cdp.archive.places import store_at
    from cdp.service.locate import Location

    if verb not in READS:
        raise InvalidRequest(f"{url}: 'cdp {verb}' takes a volume on this machine",
                             f"bring it back first: cdp archive {quote(url)} FOLDER")
    state = click.get_current_context().find_root().ensure_object(State)
    if url in state.archives:
        return Location(state.archives[url])
    store = store_at(url)
    folder = state.late.enter_context(tempfile.TemporaryDirectory(prefix="cdp-archive-"))
    with Progress(f"opening {url}", quiet=state.as_json) as progress:
        found = DirectArchive(store, f"{folder}/{posixpath.basename(store.url)}", state.settings, progress.at)
    state.late.callback(found.close)
    state.archives[url] = found.root
    return Location(found.root)


def check_archive(state: State, url: str) -> bool:
    """Read and verify all of it, and report. Returns whether it is sound."""
    with Progress(f"checking {url}", quiet=state.as_json) as progress:
        found = opened(url).verify(progress.at)
    problems = [{"where": p.where, "what": p.what, "hint": ""} for p in found.problems]
    result: dict[str, Any] = {
        "ok": not problems, "problems": problems, "manifest": found.manifest.number, "epoch": found.manifest.epoch,
        "complete": found.manifest.complete, "segments": found.segments, "records": found.records,
        "objects": found.objects, "bytes_read": found.bytes_read}
    verdict = f"{len(problems)} problem(s)" if problems else "no problems"
    if not found.manifest.complete:
        verdict += "; not complete yet: its first archiving was interrupted"
    emit(state, result, [*fields(f"{url}: {verdict}", [
        ("segments", str(found.segments)), ("records", str(found.records)), ("objects", str(found.objects)),
        ("read", approx_size(found.bytes_read))]), *(f"  {p['where']}: {p['what']}" for p in problems)])
    return not problems

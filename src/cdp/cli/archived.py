"""Commands on the URL of an archive: its check, and a volume that is made of it for a command and then removed."""
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cdp.cli.base import State, emit, fields
from cdp.cli.progress import Progress
from cdp.text.sizes import approx_size

if TYPE_CHECKING:
    from cdp.archive.reader import Archive
    from cdp.service.locate import Location


def opened(url: str) -> "Archive":
    """What the archive's newest manifest holds."""
    from cdp.archive.places import store_at
    from cdp.archive.reader import Archive

    return Archive(store_at(url))


@contextmanager
def fetched(state: State, url: str) -> Iterator["Location"]:
    """The volume, in a temporary folder ($TMPDIR): all of its history."""
    from cdp.service.locate import locate

    found = opened(url)
    with (tempfile.TemporaryDirectory(prefix="cdp-archive-") as folder,
          Progress(f"fetching {url}", quiet=state.as_json) as progress):
        found.fetch(f"{folder}/volume", state.settings, progress.at)
        yield locate(f"{folder}/volume")


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

"""archive: the history of a volume in object storage, kept up to date; and the way back."""
import threading
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.progress import Progress
from cdp.cli.refs import volume_only
from cdp.text.paths import absolute
from cdp.text.sizes import approx_size, parse_duration_ms
from cdp.text.timestamps import local_utc_and_age, utc
from cdpcore.base.errors import CdpError, InvalidRequest

if TYPE_CHECKING:
    from cdp.archive.follow import Follower
    from cdp.archive.manifest import Manifest
    from cdp.archive.writer import Writer, Written
    from cdp.views import MomentView

LEAST_EVERY_MS = 200


@command(cli, "archive", setting_flags=ENGINE_KEYS, examples=[
    ("cdp archive web s3://backups/web", "keep it up to date, until it is stopped"),
    ("cdp archive web s3://backups/web --once", "bring it up to date, and end"),
    ("cdp archive web file:///mnt/nas/web --every 1m", "into a folder of another machine that is mounted"),
    ("cdp archive web s3://backups/web --keep 'all for 90d'", "what is older than 90 days goes from the archive"),
    ("cdp archive s3://backups/web web", "the way back: the volume with its history, in a new folder"),
], exit_codes=WRITE_EXITS)
@click.argument("source", metavar="VOLUME|URL")
@click.argument("dest", metavar="URL|FOLDER")
@click.option("--every", metavar="TIME", help="How often to look for what is new.  [default: 5s]")
@click.option("--once", is_flag=True, help="Bring it up to date, and end.")
@click.option("--keep", multiple=True, metavar="RULE",
              help="What the archive keeps, such as 'all for 90d'; may be repeated.  [default: everything]")
def archive(state: State, source: str, dest: str, every: str | None, once: bool, keep: tuple[str, ...]) -> None:
    """Keep the history of a volume in object storage.

    URL is a folder for this volume alone: s3://BUCKET/FOLDER, gs://, az://, or file:///FOLDER. Keys, region and
    endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ...); all but file:// needs the extra
    cdp[archive]. What was flushed is there at most --every later; then no loss of this machine takes it away. Each
    object is verified by its digest; the store must have conditional requests, and is tried out first.

    The archive keeps all history that it once got, also what the volume gives up later; with --keep, what these rules
    say (see docs/retention.md): of one 'all for SPAN', and of bookmarks. There is no undo of what it gives up. One
    process writes it: whoever starts last, and the others stop. Runs until SIGTERM or SIGINT, and repeats what fails,
    unless --once is given.

    From URL to a new FOLDER it is the way back; the volume that was brought back may be archived to the same URL.
    """
    from cdp.archive.places import is_url

    if is_url(source) == is_url(dest):
        raise InvalidRequest("one of the two is a volume, the other a URL",
                             "write 'cdp archive VOLUME s3://BUCKET/FOLDER', or the other way round to bring it back")
    if is_url(source):
        if once or every is not None or keep:
            raise InvalidRequest("--once, --every and --keep are for archiving", "leave them off")
        _bring_back(state, source, dest)
        return
    if once and every is not None:
        raise InvalidRequest("--once and --every exclude each other", "give one of them")
    every_ms = parse_duration_ms(every or "5s", "--every")
    if every_ms < LEAST_EVERY_MS:
        raise InvalidRequest(f"--every {every}: too often", f"write {LEAST_EVERY_MS}ms or more")
    location = volume_only(source, "archive")
    if location.images:
        raise InvalidRequest(f"{source}: is a writable image, which shows another volume", "archive that")
    from cdp.archive.follow import Follower
    from cdp.archive.places import store_at
    from cdp.archive.retention import parsed
    from cdp.archive.writer import Writer

    store = store_at(dest)
    policy = parsed(keep) if keep else None
    if once:
        with Progress(f"archiving {source}", quiet=state.as_json) as progress:
            writer = Writer(store, progress.at)
            done = Follower(location, state.settings, writer, False, policy).up_to_date()
        _report(state, dest, writer, done)
    else:
        writer = Writer(store)
        _follow(state, source, dest, Follower(location, state.settings, writer, True, policy), writer, every_ms / 1000)


def _follow(state: State, volume: str, url: str, follower: "Follower", writer: "Writer", every_s: float) -> None:
    from cdp.archive.writer import Written
    from cdp.ipc.stop_signals import stop_on_signal

    total = Written()

    def done(written: Written) -> None:
        total.changed = True
        total.objects += written.objects
        total.bytes += written.bytes
        total.given_up += written.given_up
        if written.given_up:
            note(f"{url}: gave up {approx_size(written.given_up)} of the log, as --keep says")
        if written.first:
            note(f"{url}: has all of {volume}")

    def failed(error: CdpError) -> None:
        note(f"{error.message}; it is tried again")

    stop = threading.Event()
    with stop_on_signal(stop.set):
        note(f"archiving {volume} to {url}")
        follower.run(every_s, stop.wait, done, failed)
    _report(state, url, writer, total)


def _report(state: State, url: str, writer: "Writer", done: "Written") -> None:
    now = writer.newest
    upto = _moment(now)
    result = {"url": url, "first": done.first, "upto": upto, "epoch": now.epoch if now else None,
              "objects": done.objects, "bytes": done.bytes, "given_up_bytes": done.given_up}
    moment = "empty" if upto is None else f"as of #{upto['seq']}, {local_utc_and_age(upto['ts_ns'])}"
    what = "a new archive" if done.first else "brought up to date" if done.changed else "is up to date"
    gave_up = [f"  gave up  {approx_size(done.given_up)} of the log"] if done.given_up else []
    emit(state, result, [f"{url}: {what}, {moment}", f"  sent  {done.objects} objects, {approx_size(done.bytes)}",
                         *gave_up])


def _moment(now: "Manifest | None") -> "MomentView | None":
    from cdp.views import MomentView

    if now is None or now.upto is None:
        return None
    seq, ts_ns = now.upto
    return MomentView(seq=seq, ts_ns=ts_ns, time=utc(ts_ns))


def _bring_back(state: State, url: str, dest: str) -> None:
    from cdp.cli.archived import opened

    dest = absolute(dest)
    with Progress(f"fetching {url}", quiet=state.as_json) as progress:
        found = opened(url)
        sent = found.fetch(dest, state.settings, progress.at)
    upto = _moment(found.manifest)
    moment = "empty" if upto is None else f"as of #{upto['seq']}, {local_utc_and_age(upto['ts_ns'])}"
    emit(state, {"url": url, "dest": dest, "upto": upto, "bytes": sent},
         f"{dest}: the volume in {url}, {moment}")
    note(f"to archive it on: cdp archive {quote(dest)} {quote(url)}")

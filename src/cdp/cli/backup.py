"""backup: a copy of a volume, brought up to date segment by segment."""
import os
from contextlib import suppress
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.progress import Progress
from cdp.cli.refs import volume_only
from cdp.text.paths import absolute
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local_utc_and_age
from cdpcore.base.errors import CdpError, InvalidRequest


@command(cli, "backup", setting_flags=ENGINE_KEYS, examples=[
    ("cdp backup web /backup/web", "a copy, of the whole history; the next time, of what is new"),
    ("cdp backup db /backup/db --disk /backup/db.img", "of a protected disk: where the copy's disk goes"),
    ("cdp backup /backup/web web", "the way back: a copy of the copy"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.argument("dest")
@click.option("--disk", metavar="FILE", help="Of a protected disk: the disk of the copy, a new file or a block device "
              "of that size. [default DEST.img]")
def backup(state: State, volume: str, dest: str, disk: str | None) -> None:
    """Copy a volume with its history, while it runs.

    DEST is a new folder, or the one of an earlier backup of the same volume: then only the segments of the log that are
    new are copied, verified and synced. The copy is a volume: 'cdp check' verifies it, and it can be served. Once it
    has records of its own, it is no backup any more. An interrupted backup leaves the earlier one as it was, or further
    on; repeat it.

    The folder of the volume must be readable here. Writable images are left out.
    """
    location = volume_only(volume, "backup")
    if location.images:
        raise InvalidRequest(f"{volume}: is a writable image, which shows another volume",
                             "back up that; 'cdp export' copies what the image shows")
    dest = absolute(dest)
    if os.path.realpath(dest) == os.path.realpath(location.root) or \
            os.path.realpath(dest).startswith(os.path.realpath(location.root) + os.sep):
        raise InvalidRequest(f"{dest}: is in the volume itself", "take a folder on another device")
    from cdp.cli.backup_copy import Backup
    from cdp.service.connect import connect

    with (connect(location, state.settings) as service,
          Progress(f"backing up {volume}", quiet=state.as_json) as progress):
        before = service.info()["disk"] is not None
        if disk is not None and not before:
            raise InvalidRequest(f"{volume}: protects no disk in place", "leave off --disk")
        first = not os.path.exists(os.path.join(dest, "volume.json"))
        target = absolute(disk) if disk is not None else f"{dest}.img" if before and first else ""
        if first and before and os.path.exists(target) and os.path.isfile(target):
            raise InvalidRequest(f"{target} exists", "take another name with --disk, or move it away")
        done = Backup(service, location.root, dest, target, state.settings, progress.at).run()
        if done.upto is not None:
            with suppress(CdpError):    # a server of an older version, which does not ask when the last one was
                service.backed_up(dest, done.upto["seq"], done.upto["ts_ns"])
    moment = "empty" if done.upto is None else f"as of #{done.upto['seq']}, {local_utc_and_age(done.upto['ts_ns'])}"
    what = "a new backup" if done.first else "brought up to date"
    result = {"dest": dest, "first": done.first, "upto": done.upto, "segments": done.segments,
              "log_bytes": done.log_bytes, "disk": done.disk, "disk_bytes": done.disk_bytes}
    copied = f"  copied  {done.segments} segments, {approx_size(done.log_bytes + done.disk_bytes)}"
    emit(state, result, [f"{dest}: {what}, {moment}", copied])
    if done.first:
        note(f"to verify all of it: cdp check {quote(dest)}")

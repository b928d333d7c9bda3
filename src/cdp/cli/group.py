"""group create, bookmark, restore, undo, image, list, show and remove: several volumes with moments in common."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, VOLUME_EXITS, WRITE_EXITS, State, command, emit, fields, note, table
from cdp.cli.clients import POLL_SECONDS, under_clients
from cdp.cli.group_output import (
    group_lines,
    group_view,
    moment_view,
    pause_text,
    restore_view,
    volume_pairs,
)
from cdp.cli.refs import Ref, split, with_point
from cdp.text.sizes import parse_duration_ms
from cdpcore.base.errors import Busy, InvalidRequest

if TYPE_CHECKING:
    from cdp.service.groups import Group


@cli.group("group")
def group() -> None:
    """Groups of volumes with moments in common.

    A database on one volume and its log on another are of use only together, as of one moment. A bookmark of their
    group is one moment of all: every write that was acknowledged before is in it, none that came after. GROUP@POINT can
    be given to cdp restore, image create and export in place of VOLUME@POINT.

    All volumes of a group are served by one server, or by none: one moment of several servers would not be exact.
    """


def open_group(path: str, state: State) -> Group:
    from cdp.service.groups import Group

    return Group(path, settings=state.settings)


def only(text: str, verb: str) -> str:
    """The path of a command that takes a group and no point."""
    ref = split(text)
    if ref.point is not None:
        raise InvalidRequest(f"'cdp group {verb}' takes a group, not a point", f"leave off @{ref.point}")
    return ref.volume


@command(group, "create", examples=[
    ("cdp group create shop db wal web", "a group of three volumes, in the folder shop"),
], exit_codes=WRITE_EXITS)
@click.argument("name", metavar="GROUP")
@click.argument("volumes", nargs=-1, required=True)
def create(state: State, name: str, volumes: tuple[str, ...]) -> None:
    """Make a group of volumes that exist.

    The group is a small folder of its own; nothing in the volumes changes. Volumes beside it are found again when the
    folder that all are in is moved.
    """
    from cdp.service.groups import Group

    with Group.create(name, volumes, settings=state.settings) as made:
        emit(state, group_view(made), group_lines(made))


@command(group, "bookmark", examples=[
    ("cdp group bookmark shop before-upgrade", "one moment of all volumes"),
    ("cdp group bookmark shop tidy --before 'fsfreeze -f /srv' --after 'fsfreeze -u /srv'",
     "with the file system at rest; it is thawed whatever happens"),
    ("cdp group bookmark shop nightly --before \"psql -c CHECKPOINT\" --for 30d", "a pin for 30 days"),
    ("cdp group bookmark shop tidy --delete", "take the name away; the history stays"),
], exit_codes=WRITE_EXITS)
@click.argument("name", metavar="GROUP")
@click.argument("bookmark_name", metavar="NAME")
@click.option("--before", metavar="CMD", help="A command (of sh) that is run before; where it fails, nothing is made.")
@click.option("--after", metavar="CMD", help="A command that is run after, whatever happened.")
@click.option("--time-limit", metavar="TIME", default="30s",
              help="--after runs at the latest so long after --before began; then nothing is made [default 30s].")
@click.option("--for", "keep_for", metavar="SPAN", help="So long it is a pin: 30m, 48h, 90d.")
@click.option("--delete", is_flag=True, help="Take the bookmark away.")
def bookmark(state: State, name: str, bookmark_name: str, before: str | None, after: str | None, time_limit: str,
             keep_for: str | None, delete: bool) -> None:
    """Name the present moment of all volumes of a group.

    Writers are held up for some microseconds. The moment is as after a crash, which a journalling file system or a
    database recovers from; --before and --after make it a quiet one. The commands find $CDP_GROUP and $CDP_BOOKMARK.
    Each volume gets a bookmark of this name, too; all of them or none.
    """
    from cdp.cli.quiesce import quiesced
    from cdp.moments.policy import span

    path = only(name, "bookmark")
    if delete and (before or after or keep_for):
        raise InvalidRequest("--delete goes alone", "leave off --before, --after and --for")
    limit_s = parse_duration_ms(time_limit, "--time-limit") / 1e3
    keep_ns = span(keep_for, "--for") if keep_for else None
    with open_group(path, state) as opened:
        if delete:
            opened.delete_bookmark(bookmark_name)
            emit(state, {"deleted": bookmark_name}, f"{opened.name}: bookmark {bookmark_name} is gone")
            return
        opened.connect()    # not while a file system is frozen
        with quiesced(before, after, limit_s, {"CDP_GROUP": opened.path, "CDP_BOOKMARK": bookmark_name}) as valid:
            made = opened.bookmark(bookmark_name, keep_ns, valid=valid)
        emit(state, moment_view(opened, made),
             fields(f"{opened.name}: bookmark {made.name}, {pause_text(made.pause_ns)}", volume_pairs(opened, made.at)))


@command(group, "restore", examples=[
    ("cdp group restore shop@before-upgrade", "all volumes; the same as: cdp restore shop@before-upgrade"),
    ("cdp group restore shop@-10m --dry-run", "show which moments of which volumes that would be"),
], exit_codes=WRITE_EXITS)
@click.argument("group_at_point", metavar="GROUP@POINT")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@under_clients
def restore(state: State, group_at_point: str, dry_run: bool, force: bool, wait: str | None) -> None:
    """Put all volumes of a group back to one moment.

    All of them or none: what a crash interrupts is completed by the next command that changes the group. POINT is a
    bookmark of the group, or a time or an age, which is as exact as this machine's clock. As 'cdp restore', it is
    refused while NBD clients are connected that may write.
    """
    restore_group(state, with_point(split(group_at_point), "group restore"), dry_run, force, wait)


def restore_group(state: State, ref: Ref, dry_run: bool, force: bool, wait: str | None) -> None:
    assert ref.point is not None
    with open_group(ref.volume, state) as opened:
        done = _waiting(lambda: opened.restore(ref.point or "", dry_run=dry_run, force=force), force, wait, dry_run)
        verb = "would be put back" if dry_run else "put back"
        emit(state, restore_view(opened, done, dry_run),
             fields(f"{opened.name}: {verb} to {ref.point}", volume_pairs(opened, done.at)))
    if not dry_run:
        note(f"to take this back: cdp group undo {quote(ref.volume)}")


@command(group, "undo", examples=[
    ("cdp group undo shop", "as if the group's last restore, and what was written since, had not been"),
], exit_codes=WRITE_EXITS)
@click.argument("name", metavar="GROUP")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@under_clients
def undo(state: State, name: str, dry_run: bool, force: bool, wait: str | None) -> None:
    """Take the last restore of a group back, in all its volumes."""
    with open_group(only(name, "undo"), state) as opened:
        done = _waiting(lambda: opened.undo(dry_run=dry_run, force=force), force, wait, dry_run)
        verb = "would be taken" if dry_run else "is taken"
        emit(state, restore_view(opened, done, dry_run), f"{opened.name}: the restore to {done.point} {verb} back")


@command(group, "image", examples=[
    ("cdp group image shop@before-upgrade trial", "the images db/trial, wal/trial and web/trial, writable"),
    ("cdp group image shop trial", "of now, which is one moment of all, too"),
    ("cdp group image shop trial --delete", "all of them, and what was written to them, are gone"),
], exit_codes=WRITE_EXITS)
@click.argument("group_at_point", metavar="GROUP[@POINT]")
@click.argument("image_name", metavar="NAME")
@click.option("--delete", is_flag=True, help="Delete the images of that name.")
def image(state: State, group_at_point: str, image_name: str, delete: bool) -> None:
    """Make an image of each volume, of one moment."""
    if delete:
        with open_group(only(group_at_point, "image"), state) as opened:
            opened.delete_image(image_name)
            emit(state, {"deleted": image_name}, f"{opened.name}: the images {image_name} are gone")
        return
    image_group(state, with_point(split(group_at_point), "group image", "now"), image_name)


def image_group(state: State, ref: Ref, image_name: str) -> None:
    with open_group(ref.volume, state) as opened:
        made = opened.create_image(image_name, at=ref.point or "now")
        emit(state, {**moment_view(opened, made), "image": image_name},
             fields(f"{opened.name}: writable images {image_name} of {ref.point}", volume_pairs(opened, made.at)))


@command(group, "show", examples=[
    ("cdp group show shop", "its volumes, bookmarks and restores, and what is incomplete"),
], exit_codes=VOLUME_EXITS)
@click.argument("name", metavar="GROUP")
def show(state: State, name: str) -> None:
    """Show a group. The volumes are not opened."""
    with open_group(only(name, "show"), state) as opened:
        emit(state, group_view(opened), group_lines(opened))


@command(group, "list", examples=[("cdp group list", "the groups in this folder"),
                                  ("cdp group list /srv", "those in /srv")], exit_codes=VOLUME_EXITS)
@click.argument("folder", required=False, default=".")
def list_(state: State, folder: str) -> None:
    """List the groups in a folder."""
    from cdp.store.group_file import is_group

    found = []
    for one in sorted(os.listdir(folder)):
        if is_group(path := os.path.join(folder, one)):
            with open_group(path, state) as opened:
                found.append(group_view(opened))
    rows = [(one["name"], ", ".join(map(os.path.basename, one["volumes"])), str(len(one["bookmarks"])),
             one["interrupted"] or "") for one in found]
    emit(state, found, table(("NAME", "VOLUMES", "BOOKMARKS", "INCOMPLETE"), rows) if found else
         f"{folder}: no groups; 'cdp group create GROUP VOLUME...' makes one")


@command(group, "remove", examples=[("cdp group remove shop", "the volumes, and their bookmarks, stay")],
         exit_codes=POINT_EXITS)
@click.argument("name", metavar="GROUP")
def remove(state: State, name: str) -> None:
    """Remove a group. Its volumes stay as they are, with their bookmarks."""
    with open_group(only(name, "remove"), state) as opened:
        members = opened.members
        opened.remove()
    emit(state, {"removed": opened.path, "volumes": members}, f"{opened.name}: removed; its volumes stay")
    note(f"to have it back: cdp group create {' '.join(map(quote, (name, *members)))}")


def _waiting(work: Callable[[], Any], force: bool, wait: str | None, dry_run: bool) -> Any:
    """What `work` gives; with --wait it is repeated while clients are in its way."""
    if force and wait is not None:
        raise InvalidRequest("--force and --wait exclude each other", "give one of the two")
    until_s = time.monotonic() + (parse_duration_ms(wait, "--wait") / 1e3 if wait is not None and not dry_run else 0)
    while True:
        try:
            return work()
        except Busy:
            if time.monotonic() >= until_s:
                raise
        time.sleep(POLL_SECONDS)

"""What the commands of groups print: plain JSON, and lines for people."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cdp.cli.base import table
from cdp.text.sizes import approx_duration
from cdp.text.timestamps import local_utc_and_age, utc

if TYPE_CHECKING:
    from cdp.moments.model import GroupMoment, GroupRestore, Moment
    from cdp.service.groups import Group


def moment_view(group: Group, moment: GroupMoment) -> dict[str, Any]:
    return {"name": moment.name, "made_ns": moment.made_ns, "made": utc(moment.made_ns), "pause_ns": moment.pause_ns,
            "volumes": _volumes(group.members, moment.at)}


def restore_view(group: Group, done: GroupRestore, dry_run: bool = False) -> dict[str, Any]:
    volumes = [{**volume, "restore_seq": seq}
               for volume, seq in zip(_volumes(group.members, done.at), done.seqs, strict=True)]
    return {"point": done.point, "done_ns": done.done_ns, "done": utc(done.done_ns), "undone": done.undone,
            "dry_run": dry_run, "volumes": volumes}


def group_view(group: Group) -> dict[str, Any]:
    return {"name": group.name, "path": group.path, "volumes": group.members,
            "bookmarks": [moment_view(group, moment) for moment in group.bookmarks()],
            "restores": [restore_view(group, done) for done in group.restores()], "interrupted": group.interrupted}


def _volumes(members: Sequence[str], at: Sequence[Moment]) -> list[dict[str, Any]]:
    return [{"volume": path, "at": {"seq": one.seq, "ts_ns": one.ts_ns, "time": utc(one.ts_ns)}}
            for path, one in zip(members, at, strict=True)]


def volume_pairs(group: Group, at: Sequence[Moment]) -> list[tuple[str, str]]:
    """Each volume, and where it is."""
    return [(os.path.basename(path), f"#{one.seq}, {local_utc_and_age(one.ts_ns)}")
            for path, one in zip(group.members, at, strict=True)]


def short_text(pause_ns: int) -> str:
    return approx_duration(pause_ns) or f"{-(-pause_ns // 1000)} us"


def pause_text(pause_ns: int) -> str:
    return f"writers were held up for {short_text(pause_ns)}"


def group_lines(group: Group) -> list[str]:
    """A group, for people."""
    members = [os.path.basename(path) for path in group.members]
    lines = [f"{group.name}: a group of {len(members)} volume{'s' if len(members) != 1 else ''}",
             *(f"  {path}" for path in group.members)]
    if (interrupted := group.interrupted) is not None:
        lines.append(f"  incomplete: {interrupted}")
    if moments := group.bookmarks():
        rows = [(one.name, local_utc_and_age(one.made_ns), short_text(one.pause_ns), *(f"#{at.seq}" for at in one.at))
                for one in moments]
        lines += ["", *table(("BOOKMARK", "MADE", "PAUSE", *members), rows)]
    if restores := group.restores():
        rows = [(one.point, local_utc_and_age(one.done_ns), "undone" if one.undone else "",
                 *(f"#{seq}" for seq in one.seqs))
                for one in restores]
        lines += ["", *table(("RESTORED TO", "DONE", "", *members), rows)]
    return lines

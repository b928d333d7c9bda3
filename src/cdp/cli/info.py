"""info: a volume at a glance."""
import os
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, fields
from cdp.cli.explain import clock_pairs, thinned_pairs
from cdp.cli.refs import volume_only
from cdp.text import sizes as units
from cdp.text.timestamps import local_utc_and_age

if TYPE_CHECKING:
    from cdp.views import CopiesView, DeviceSpaceView, DiskChecksumsView, InfoView, ScrubView, StandbyView

BLOCK_BYTES = 4096


@command(cli, "info", examples=[
    ("cdp info web", "size, window, history, and whether it is served"),
    ("cdp info web/test", "the same of the writable image test"),
    ("cdp info web --json | jq .stats", "all counters of the engine"),
], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def info(state: State, volume: str) -> None:
    """Show a volume at a glance."""
    location = volume_only(volume, "info")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.info()
    emit(state, got, info_lines(volume, got))


def info_lines(title: str, got: "InfoView") -> list[str]:
    stats, window, served = got["stats"], got["window"], got["served"]
    pairs = [
        ("path", got["path"]),
        ("size", f"{units.approx_size(got['size_bytes'])} ({got['size_bytes']} bytes)"),
        ("created", local_utc_and_age(got["created_ns"])),
        ("oldest", f"#{window['oldest']['seq']}  {local_utc_and_age(window['oldest']['ts_ns'])}"),
        ("newest", f"#{window['newest']['seq']}  {local_utc_and_age(window['newest']['ts_ns'])}"),
        *thinned_pairs(window),
        *clock_pairs(window),
        ("log", _files(stats["segments"], "segment", stats["log_bytes"], _allocated(stats))),
        ("index", _files(stats["runs"], "run", stats["index_bytes"])),
        *space_pairs(got["space"]),
        ("bookmarks", str(got["bookmarks"])),
        ("images", str(got["images"])),
        ("restores", _restores(got)),
        ("scrub", scrub_text(got["scrub"])),
        *_copy_pairs(got["copies"]),
    ]
    if got["retention"]["policy"] is not None or got["retention"]["failed"]:
        from cdp.cli.policy import policy_pairs

        pairs += policy_pairs(got["retention"])
    if (freeing := got["freeing"]) is not None:
        left = f"{units.approx_size(freeing['bytes_left'])} left, {freeing['folded_percent']:g} % folded"
        pairs.append(("freeing", f"what is before #{freeing['start']['seq']}: {left}"))
    if got["disk"]:
        pairs.insert(1, ("disk", f"{got['disk']}, written in place"))
    if (sums := got["disk_checksums"]) is not None:
        pairs.insert(2, ("checksums", _checksums(sums)))
    if (writing := got["writeback"]) is not None:
        pairs.append(("writing back",
                      f"restore #{writing['restore_seq']}: {units.approx_size(writing['bytes_left'])} left"))
    if stats.get("freeing_bytes"):
        pairs.append(("freeing", f"{units.approx_size(stats['freeing_bytes'])} of history that was given up"))
    if got["parent"]:
        pairs.insert(1, ("image of", got["parent"]))
    if capture := got["capture"]:
        from cdp.cli.capture import one_line

        pairs.append(("captures", f"{capture['source']}: {one_line(capture)}"))
    if (copy := got["standby"]) is not None:
        pairs.append(("standby", standby_text(copy)))
    if stats.get("failed_errno"):
        why = os.strerror(stats["failed_errno"])
        pairs.append(("failed", f"{why}: no write is taken any more; remove the cause, then start the server anew"))
    pairs.append(("served", f"by process {served['pid']}" if served else "no"))
    lines = fields(title, pairs)
    lines += [f"  damage: {one['where']}: {one['what']}; {one['hint']}" for one in got["scrub"]["problems"]]
    lines += [f"  alert: {one['what']} (since {one['since']}); {one['hint']}" for one in got["alerts"]]
    if served:
        lines += [f"             {uri}" for uri in served["uris"]]
    return lines


def _copy_pairs(copies: "CopiesView") -> list[tuple[str, str]]:
    """Where there is one."""
    pairs = []
    for name, copy in (("backup", copies["backup"]), ("archive", copies["archive"])):
        if copy is not None:
            lacks = f", lacks what came since {local_utc_and_age(copy['missing']['ts_ns'])}" if copy["missing"] else ""
            made = local_utc_and_age(copy["made_ns"])
            pairs.append((name, f"{copy['where']}, made {made}, up to #{copy['upto']['seq']}{lacks}"))
    return pairs


def standby_text(view: "StandbyView") -> str:
    """How far it is."""
    if view["connected"]:
        where = f"{view['mode']}, {view['who']}"
    else:
        where = f"{view['mode']}, not connected" + (f" since {view['since']}" if view["since"] else "")
    if not view["lag_records"]:
        return f"{where}; it has all, up to #{view['seq']}"
    return (f"{where}; it has all up to #{view['seq']}, and lacks {view['lag_records']} records, "
            f"{units.approx_size(view['lag_bytes'])}, {units.approx_duration(view['lag_ns'])} of writes")


def scrub_text(scrub: "ScrubView") -> str:
    """When all that is stored was read last, and what that found."""
    parts = []
    if scrub["last_ended_ns"] is None:
        parts.append("never ended")
    else:
        read = units.approx_size(scrub["last_bytes"])
        parts.append(f"ended {local_utc_and_age(scrub['last_ended_ns'])}, {read} read")
    parts.append(f"{scrub['n_problems']} problem(s)" if scrub["n_problems"] else "no problems")
    if scrub["percent"] is not None:
        parts.append(f"the next one has read {scrub['percent']:g} %")
    return "; ".join(parts if scrub["last_ended_ns"] is not None or scrub["n_problems"] or
                     scrub["percent"] is not None else parts[:1])


def _restores(got: "InfoView") -> str:
    last = got["last_restore"]
    return f"{got['restores']}, the last {local_utc_and_age(last['at']['ts_ns'])}" if last else str(got["restores"])


def _checksums(sums: "DiskChecksumsView") -> str:
    """Of the disk: what a write by others would be found with."""
    if not sums["present"]:
        return "none of the disk: the table could not be made, read or written"
    if not sums["unknown_blocks"]:
        return "of all of the disk"
    missing = units.approx_size(sums["unknown_blocks"] * BLOCK_BYTES)
    return f"of the disk but for {missing}, which are read in the background while it is open"


def _allocated(stats: "dict[str, int]") -> str:
    """What files of the log take beyond what is in use: they are allocated ahead."""
    return f", {units.approx_size(ahead)} more allocated" if (ahead := stats["allocated_log_bytes"] -
                                                              stats["open_log_bytes"]) > 0 else ""


def space_pairs(space: "DeviceSpaceView | None") -> list[tuple[str, str]]:
    """Of the device, where there is something to be said."""
    if space is None or space["state"] == "ok":
        return []
    left = "" if space["left_s"] is None else f", full in {units.approx_seconds(space['left_s'])} at the present rate"
    return [("space", f"{space['state']}: {units.approx_size(space['free_bytes'])} free on its device{left}")]


def _files(count: int, what: str, size_bytes: int, how: str = "") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}, {units.approx_size(size_bytes)}{how}"

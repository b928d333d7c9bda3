"""capture: a volume follows a disk that is not ours, through its write log or as its mirror."""
import sys
import time
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, SERVER_KEYS, WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.output import put, say
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_size, parse_duration_ms
from cdp.text.timestamps import local_utc_and_age
from cdpcore.base.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cdp.views import CaptureView

STEADY_SECONDS = 10.0  # between two lines about how far it is, where standard error is not a terminal
TERMINAL_SECONDS = 0.5


@command(cli, "capture", setting_flags=(*SERVER_KEYS, *ENGINE_KEYS), examples=[
    ("cdp capture web --log /var/log/web.wlog",
     "follow the log that QEMU's blklogwrites (or dm-log-writes) is writing"),
    ("cdp capture web --log web.wlog --once", "take what is there, and end"),
    ("cdp capture web --mirror --unix /run/web-mirror.sock", "be the target of QEMU's blockdev-mirror, or of nbdcopy"),
    ("cdp capture web --status", "how far it is: entries, bytes and seconds behind"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--log", "log_path", metavar="FILE", help="The write log to follow: a file or a block device.")
@click.option("--mirror", is_flag=True, help="Take a mirrored stream over NBD.")
@click.option("--status", is_flag=True, help="Only show how far the capture of VOLUME is, or was when it ended.")
@click.option("--once", is_flag=True, help="With --log: end when everything is taken that the log counts now.")
@click.option("--new-log", is_flag=True, help="With --log: VOLUME goes on with this log, which begins where VOLUME is.")
@click.option("--settle", metavar="TIME", default="1s", show_default=True,
              help="With --log: take entries when the log has counted them for so long; its writer counts them before "
                   "they are written.")
def capture(state: State, volume: str, log_path: str | None, mirror: bool, status: bool, once: bool, new_log: bool,
            settle: str) -> None:
    """Make a history of what another disk is written.

    The disk's own I/O is never held up: a log is only read, and what has not been taken waits in it. Every entry
    becomes a record, in order, each once, also after a kill -9; its time is when it was captured, because the log has
    none.

    Meanwhile VOLUME is served as by 'cdp serve': its past moments over NBD, all commands of cdp, but nothing that
    would write to it. Runs until SIGTERM, SIGINT or SIGHUP. docs/capture.md has the guarantees.
    """
    location = volume_only(volume, "capture")
    ways = [flag for flag, given in (("--log", log_path), ("--mirror", mirror), ("--status", status)) if given]
    if len(ways) != 1:
        raise InvalidRequest(f"{' and '.join(ways) or 'no source'} given",
                             "give one of --log FILE, --mirror and --status")
    if (once or new_log) and log_path is None:
        raise InvalidRequest("--once and --new-log are about a log", "give it: --log FILE")
    if location.images:
        raise InvalidRequest(f"{volume} is an image", "capture into a volume: 'cdp create' makes one")
    if status:
        from cdp.service.connect import connect

        with connect(location, state.settings) as service:
            view = service.info()["capture"]
        if view is None:
            raise NotFound(f"{volume}: nothing was captured into it",
                           f"'cdp capture {quote(volume)} --log FILE' begins")
    else:
        from cdp.serve import capture_session

        narrator = Narrator(volume, state.as_json)
        if log_path is not None:
            view = capture_session.follow(location.root, log_path, state.settings, once=once, new_log=new_log,
                                  settle_ms=parse_duration_ms(settle, "settle"), ready=narrator.ready,
                                  progress=narrator.progress)
        else:
            view = capture_session.mirror(location.root, state.settings, ready=narrator.ready,
                                          progress=narrator.progress)
        narrator.end()
    emit(state, view, capture_lines(volume, view))


class Narrator:
    """What is said while a capture runs: URIs on standard output, how far it is on standard error."""

    def __init__(self, volume: str, as_json: bool):
        self._volume, self._as_json = volume, as_json
        self._terminal = sys.stderr.isatty()
        self._due, self._last = 0.0, ""

    def ready(self, uris: list[str]) -> None:
        """Called once, when clients can connect."""
        if not self._as_json:
            for uri in uris:
                put(uri)
        note("ready")

    def progress(self, view: "CaptureView") -> None:
        """Called often; says something when it is time, and (on a terminal) in place."""
        now = time.monotonic()
        if now < self._due:
            return
        text = one_line(view)
        self._due = now + (TERMINAL_SECONDS if self._terminal else STEADY_SECONDS)
        if text == self._last:
            return
        self._last = text
        if self._terminal:
            say(f"\r\x1b[Kcdp: {self._volume}: {text}", end="")
        else:
            note(f"{self._volume}: {text}")

    def end(self) -> None:
        if self._terminal and self._last:
            say("")


def one_line(view: "CaptureView") -> str:
    """How far a capture is, for people."""
    if view["kind"] == "mirror":
        text = f"{view['connections'] or 0} clients, {approx_size(view['written_bytes'] or 0)} written"
    else:
        text = f"{view['entries']} entries, {approx_size(view['log_bytes'] or 0)} of the log"
        if view["behind_entries"]:
            parts = [f"{view['behind_entries']} entries"]
            if view["behind_bytes"] is not None:
                parts.append(approx_size(view["behind_bytes"]))
            if view["behind_ns"]:
                parts.append(f"{view['behind_ns'] / 1e9:.1f} s")
            text += f"; behind by {', '.join(parts)}"
        else:
            text += "; all that it counts"
    return f"{text}; {view['note']}" if view["note"] else text


def capture_lines(volume: str, view: "CaptureView") -> list[str]:
    pairs = [("source", view["source"] or "over NBD"), ("running", "yes" if view["running"] else "no"),
             ("newest", f"#{view['seq']}"), ("so far", one_line(view))]
    for name, moment in (("synced", view["synced"]), ("whole", view["whole"])):
        if moment:
            pairs.append((name, f"#{moment['seq']}  {local_utc_and_age(moment['ts_ns'])}"))
    return fields(f"{volume}: {'mirror' if view['kind'] == 'mirror' else 'capture of a write log'}", pairs)

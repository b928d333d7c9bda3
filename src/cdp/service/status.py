"""Whether volumes are well: what each has, and what needs attention, in words and for a program that checks.

The rules are those of contrib/prometheus/cdp.rules.yml, but for what takes more than one look. Any thread.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cdp.service.connect import find_server
from cdp.service.locate import Location, locate
from cdp.service.remote import RemoteService
from cdp.service.servers import dead_sockets, served_volumes
from cdp.text.sizes import approx_duration, approx_size
from cdp.views import InfoView, SpaceView, StatusView
from cdpcore.base.errors import CdpError

MAX_RUNS = 48           # of 64 that an index can have
ALERTS_ALONE = ("floor", "limit", "clock", "suspicious", "standby")    # a server's, which no look finds or which last
SECOND_NS = 1_000_000_000
FORECAST_FROM_NS = 3600 * SECOND_NS     # the growth of the first hour says little


@dataclass(frozen=True)
class Limits:
    """Beyond these a volume needs attention: the age of a write that no flush came after, the clock, a capture's lag;
    the age of the first moment that the last backup, and the last archive, lacks; days until the device or the limit is
    reached."""

    unflushed_ns: int = 900 * SECOND_NS
    clock_behind_ns: int = 2 * SECOND_NS
    capture_behind_ns: int = 300 * SECOND_NS
    backup_ns: int = 2 * 86400 * SECOND_NS
    archive_ns: int = 3600 * SECOND_NS
    days_left: float = 7.0


def status(directory: str, paths: Sequence[str], now_ns: int, limits: Limits) -> Iterator[StatusView]:
    """Of the volumes at `paths`, served or not; without any, of all that the servers known in `directory` have, and of
    the sockets there whose server died. Raises NotFound, InvalidRequest for a path that is no volume."""
    if paths:
        for location in [locate(path) for path in paths]:
            try:
                server = find_server(location)
            except CdpError as error:
                yield _missing(location.text, "does not answer", str(error))
                continue
            if server is None:
                yield _missing(location.text, "not served", "no server has it: nothing is protected")
            else:
                with server:
                    yield _of(server, location.text, now_ns, limits)
        return
    for view in served_volumes(directory):
        name = view["name"]
        if name is None or view["size_bytes"] is None:      # stuck, or not open
            state, _, why = view["state"].partition(": ")
            yield _missing(view["path"] or view["admin_socket"], state, why or state)
            continue
        with RemoteService(view["admin_socket"], name, Location(name)) as server:
            yield _of(server, name, now_ns, limits)
    for path in dead_sockets(directory):
        yield _missing(path, "died", "its server died: start it again, or remove the socket where it is not wanted")


def _of(service: RemoteService, text: str, now_ns: int, limits: Limits) -> StatusView:
    try:
        info, space, now = service.info(), service.space(), service.explain("now")
        flushed = now["last_flush"]
        waiting = None
        if not now["flush_durable"]:
            waiting = service.explain(f"#{(flushed or info['window']['oldest'])['seq']}")["next"]
        clients = len(service.clients())
    except CdpError as error:
        return _missing(text, "does not answer", str(error))
    unflushed_ns = max(now_ns - waiting["ts_ns"], 0) if waiting else 0
    found = [*attention(info, space, unflushed_ns if clients else 0, limits), *late(info, now_ns, limits)]
    return StatusView(
        volume=info["path"], state="failed" if info["stats"]["failed_errno"] else "serving",
        pid=info["served"]["pid"] if info["served"] else None, oldest=info["window"]["oldest"],
        newest=info["window"]["newest"], flushed=flushed, unflushed_ns=unflushed_ns, clients=clients,
        history_bytes=space["history_bytes"], total_bytes=space["total_bytes"], free_bytes=space["device_free_bytes"],
        days_left=_days_left(info, space), attention=found, alerts=info["alerts"],
        standby=info["standby"])


def _missing(text: str, state: str, why: str) -> StatusView:
    return StatusView(volume=text, state=state, pid=None, oldest=None, newest=None, flushed=None, unflushed_ns=None,
                      clients=None, history_bytes=None, total_bytes=None, free_bytes=None, days_left=None,
                      attention=[why], alerts=[], standby=None)


def _days_left(info: InfoView, space: SpaceView) -> float | None:
    span_ns = info["window"]["newest"]["ts_ns"] - info["window"]["oldest"]["ts_ns"]
    return space["days_to_full"] if span_ns > FORECAST_FROM_NS else None


def late(info: InfoView, now_ns: int, limits: Limits) -> Iterator[str]:
    """Copies that were made once, and are behind."""
    for kind, most_ns in (("backup", limits.backup_ns), ("archive", limits.archive_ns)):
        copy = info["copies"]["backup" if kind == "backup" else "archive"]
        if copy and copy["missing"] and (behind_ns := now_ns - copy["missing"]["ts_ns"]) > most_ns:
            yield f"its {kind} {copy['where']} lacks what was written since {approx_duration(behind_ns)}"


def attention(info: InfoView, space: SpaceView, unflushed_ns: int, limits: Limits) -> Iterator[str]:
    """What needs attention, worst first. unflushed_ns: 0 where no client is there that could flush."""
    stats, retention, capture = info["stats"], info["retention"], info["capture"]
    if stats["failed_errno"]:
        yield f"its log failed with errno {stats['failed_errno']}: writes are refused"
    if (room := info["space"]) and room["state"] != "ok":
        left = "" if room["left_s"] is None else f", which lasts for {approx_duration(room['left_s'] * SECOND_NS)}"
        yield f"the device is {room['state']}: {approx_size(room['free_bytes'])} free{left}"
    if retention["writes"] != "go on":
        yield f"writes are {retention['writes']}: the history is at the limit of its policy"
    if stats["damaged_blocks"] or stats["refused_reads"]:
        yield f"{stats['damaged_blocks']} damaged blocks, {stats['refused_reads']} refused reads: run 'cdp check'"
    if n_problems := info["scrub"]["n_problems"]:
        yield f"the scrub found {n_problems} problem(s): run 'cdp check', and put files back from a copy"
    if capture and not capture["running"]:
        yield f"the capture of {capture['source']} has stopped"
    if capture and (behind := capture["behind_ns"] or 0) > limits.capture_behind_ns:
        yield f"the capture is {approx_duration(behind)} behind"
    if unflushed_ns > limits.unflushed_ns:
        yield f"no flush for {approx_duration(unflushed_ns)} of writes"
    if (behind := info["window"]["clock_behind_ns"]) > limits.clock_behind_ns:
        yield f"the clock is {approx_duration(behind)} behind the newest record"
    if (days := _days_left(info, space)) is not None and days < limits.days_left:
        yield f"the device is full in {days:.1f} days: {approx_size(space['device_free_bytes'])} left"
    if retention["failed"]:
        yield f"its retention policy is not applied: {retention['failed']}"
    if stats["runs"] > MAX_RUNS:
        yield f"{stats['runs']} index files wait to be merged"
    for alert in info["alerts"]:
        if alert["kind"] in ALERTS_ALONE:
            yield f"{alert['what']} (since {alert['since']}): {alert['hint']}"

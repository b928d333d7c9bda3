"""cdp replay: a block trace onto volumes, or onto any NBD server, and the proof that every moment was kept."""
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit
from cdp.cli.extras import require
from cdp.cli.progress import Progress
from cdp.cli.trace import TRACE_OPTIONS, counter, opened, trace_options
from cdp.store.output_files import output_file
from cdp.text.sizes import parse_size
from cdpcore.base.errors import CdpError, Corruption, InvalidRequest

if TYPE_CHECKING:
    from cdp.replay.engine import Outcome, Replay
    from cdp.replay.session import Session
    from cdp.trace.info import TraceInfo
    from cdp.trace.reader import Trace

EXITS = tuple(sorted({*WRITE_EXITS, exits.INTERRUPTED}))
_SPEED = re.compile(r"(\d+(?:\.\d+)?)x")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d)(?:\.(\d{1,9}))?|(\d+)(?:\.(\d{1,9}))?s?")


@command(
    cli,
    "replay",
    examples=[
        (
            "cdp replay mysql.load.gz --volume web --create --verify",
            "as fast as it goes, then check every kind of moment",
        ),
        (
            "cdp replay prxy_0.csv.gz --volume web --speed 10x --plot out.png",
            "at ten times the trace's pace, with a picture",
        ),
        ("cdp replay server.csv --volume 'disks/{disk}' --create", "each disk of the trace into its own volume"),
        ("cdp replay mysql.load.gz --nbd nbd://localhost/web", "the same load against an NBD server"),
        ("cdp replay --verify-only --volume web", "after a crash: every flushed moment against the trace"),
        ("cdp replay --volume web --when 12:34", "the point of the volume at a time of the trace"),
    ],
    exit_codes=EXITS,
    setting_flags=ENGINE_KEYS,
)
@click.argument("traces", metavar="[TRACE]...", nargs=-1)
@click.option("--volume", metavar="VOLUME", help="Replay into it; DIR/{disk}: a volume for each device of the trace.")
@click.option(
    "--nbd",
    "uri",
    metavar="URI",
    help="Replay onto an NBD server instead: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; nbds for TLS.",
)
@click.option("--create", is_flag=True, help="Make a volume that is missing, as large as the trace needs.")
@click.option("--size", metavar="SIZE", help="Size of created volumes.")
@click.option("--mode", type=click.Choice(["after", "before"]), default="after", show_default=True,
              help="Of created volumes: before protects an empty disk, VOLUME.img, in place.")
@click.option("--wrap", is_flag=True, help="Fold requests beyond the end of the volume into it.")
@click.option("--speed", metavar="S", default="max", show_default=True, help="max, realtime, or a factor such as 10x.")
@click.option(
    "--verify", is_flag=True, help="Afterwards check moments of the replay against a model made from the trace."
)
@click.option("--verify-only", is_flag=True, help="Only check the last replay: every flushed moment, and random ones.")
@click.option(
    "--moments",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=32,
    show_default=True,
    help="Random moments to check, besides the first and the last.",
)
@click.option(
    "--when", metavar="TIME", help="Only show the point of a time of the trace: 12:34, 1:02:03, 90.5s from its start."
)
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Only the first N records.")
@click.option(
    "--device", "devices", metavar="NAME", multiple=True, help="Only this device of the trace; may be repeated."
)
@click.option("--plot", "picture", metavar="OUT.png", help="Draw rates over time and latencies.")
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    help="With --nbd: requests in flight.",
)
@click.option(
    "--no-scan", is_flag=True, help="Begin at once: the trace is not read through before, to see that it fits."
)
@trace_options
def replay(
    state: State,
    traces: tuple[str, ...],
    volume: str | None,
    uri: str | None,
    verify_only: bool,
    when: str | None,
    verify: bool,
    **o: Any,
) -> None:
    """Replay block traces, and prove every moment right.

    Writes carry content that follows from the replay's key, the number of the change and the place, so what each sector
    must hold at any moment is known without having been stored; a write log (dm-log-writes) is replayed with its own
    data. Requests are issued in the order of the trace; reads, trims and flushes as such, FUA and preflush as in the
    trace.

    Beside VOLUME, VOLUME.replay.json keeps the report and what a later --verify-only needs.
    """
    if (volume is None) == (uri is None):
        raise InvalidRequest("give either --volume or --nbd", "see 'cdp replay --help'")
    speed = _speed(o["speed"])
    size = parse_size(o["size"]) if o["size"] else None
    if verify_only or when is not None:
        if volume is None:
            raise InvalidRequest("--verify-only and --when are for volumes", "an NBD server keeps no history")
        _look_back(state, traces, volume, when, o)
        return
    if o["picture"]:
        require("matplotlib")
    if not traces:
        raise InvalidRequest("no trace given", "'cdp replay --help' has examples")
    options = {name: o[name] for name in TRACE_OPTIONS}
    if verify and "-" in traces:
        raise InvalidRequest("a trace from a pipe cannot be read again to verify it", "store it in a file")
    with _open(traces, options) as trace:
        info = None if o["no_scan"] or "-" in traces else _scan(trace, o["limit"])
        if speed and trace.clock == "none":
            raise InvalidRequest(f"{traces[0]}: {trace.format} has no times", "use --speed max")
        if uri is not None:
            report, failure = _to_server(state, trace, info, uri, speed, verify, o)
        else:
            assert volume is not None
            report, failure = _to_volumes(state, trace, info, volume, speed, size, verify, options, o)
    emit(state, report, _lines(report))
    _end(report, failure)


def _end(report: dict[str, Any], failure: CdpError | None) -> None:
    if failure is not None:
        raise failure
    if report["ended"] == "interrupted":
        raise KeyboardInterrupt
    wrong = [v for v in report["verify"] or [] if not v["ok"]]
    if wrong:
        raise Corruption(
            f"{wrong[0]['volume']}: {wrong[0]['mismatch_count']} differences: {wrong[0]['mismatches'][0]}",
            "keep the volume, run 'cdp check', and report it",
        )


def _lines(report: dict[str, Any]) -> list[str]:
    from cdp.replay.report import lines

    return lines(report)


def _speed(text: str) -> float:
    """0 for max, else trace seconds in a second."""
    if text in ("max", "realtime"):
        return 0.0 if text == "max" else 1.0
    found = _SPEED.fullmatch(text)
    if not found or not 0.001 <= float(found[1]) <= 1e6:
        raise InvalidRequest(f"speed {text!r}", "write max, realtime, or a factor from 0.001x to 1000000x, such as 10x")
    return float(found[1])


def _open(traces: tuple[str, ...], options: dict[str, Any]) -> "Trace":
    trace = opened(traces, options)
    data = {source.format.has_payload for source in trace.sources}
    if len(data) > 1:
        trace.close()
        raise InvalidRequest(
            "a write log with data and traces without cannot be replayed together", "replay one after the other"
        )
    return trace


def _scan(trace: "Trace", limit: int | None) -> "TraceInfo":
    from cdp.trace.info import collect

    with Progress("reading", trace.stored_bytes) as progress:
        return collect(trace, limit=limit, progress=counter(progress, trace))


def _to_volumes(
    state: State,
    trace: "Trace",
    info: "TraceInfo | None",
    template: str,
    speed: float,
    size: int | None,
    verify: bool,
    options: dict[str, Any],
    o: dict[str, Any],
) -> tuple[dict[str, Any], CdpError | None]:
    from cdp.replay import report as outcome
    from cdp.replay import to_volumes
    from cdp.replay.engine import Replay

    places = to_volumes.place(template, trace, info, o["devices"])
    new = to_volumes.check_sizes(places, create=o["create"], size=size, wrap=o["wrap"])
    _check_picture(o["picture"])
    with to_volumes.opened(
        places,
        trace,
        new,
        settings=state.settings,
        options=options,
        limit=o["limit"],
        wrap=o["wrap"],
        check_reads=verify,
        before=o["mode"] == "before",
    ) as ready:
        replay = Replay(trace, [r.disk for r in ready], speed=speed, limit=o["limit"])
        with _stopping(replay), Progress("replaying", info.records if info else None) as progress:
            to_volumes.run(ready, replay, _shower(progress))
    to_volumes.add_stored(ready)
    report = outcome.build(replay, trace, info, [r.report for r in ready], o["speed"])
    if o["picture"]:
        from cdp.replay import plot as replayplot

        with output_file(o["picture"]):
            replayplot.save(replay, info, report, o["picture"])
    if verify and not replay.outcome.error:
        report["verify"] = [_verify(state, r.session, trace, o, all_flushes=False) for r in ready]
    return report, replay.outcome.error


def _to_server(
    state: State, trace: "Trace", info: "TraceInfo | None", uri: str, speed: float, verify: bool, o: dict[str, Any]
) -> tuple[dict[str, Any], CdpError | None]:
    from cdp.replay import report as outcome
    from cdp.replay import to_server
    from cdp.replay.engine import Replay

    _check_picture(o["picture"])
    with to_server.opened(
        uri, trace, info, o["devices"], depth=o["depth"], wrap=o["wrap"], check_reads=verify, limit=o["limit"]
    ) as server:
        replay = Replay(trace, [server.disk], speed=speed, limit=o["limit"])
        with _stopping(replay), Progress("replaying", info.records if info else None) as progress:
            server.run(replay, _shower(progress))
        report = outcome.build(replay, trace, info, [server.report()], o["speed"])
        if o["picture"]:
            from cdp.replay import plot as replayplot

            with output_file(o["picture"]):
                replayplot.save(replay, info, report, o["picture"])
        if verify and not replay.outcome.error:
            report["verify"] = [server.verify(trace, replay)]
    return report, replay.outcome.error


def _check_picture(path: str | None) -> None:
    """Known before the replay, not after it."""
    if path and not os.path.isdir(os.path.dirname(path) or "."):
        raise InvalidRequest(f"{path}: its folder does not exist", "create the folder first")
    if path:
        with output_file(path):
            pass


def _look_back(state: State, traces: tuple[str, ...], template: str, when: str | None, o: dict[str, Any]) -> None:
    """--verify-only and --when: what the session says about the last replay, and the trace read again."""
    from cdp.replay import report as outcome
    from cdp.replay import to_volumes

    results = []
    for session in to_volumes.sessions_of(template):
        paths = traces or tuple(session.traces)
        if "-" in paths:
            raise InvalidRequest("the trace came from a pipe", "give it as a file")
        with _open(paths, session.options) as trace:
            if when is not None:
                results.append(_when(state, session, trace, when))
            else:
                results.append(_verify(state, session, trace, o, all_flushes=True))
    if when is not None:
        emit(state, results, [f"{r['volume']}@{r['point']}  {r['time']}" for r in results])
        return
    emit(state, {"verify": results}, [line for v in results for line in outcome.verified_lines(v)])
    _end({"ended": "end", "verify": results}, None)


def _when(state: State, session: "Session", trace: "Trace", text: str) -> dict[str, Any]:
    import cdp
    from cdp.replay import to_volumes
    from cdp.text.timestamps import utc

    after_ns = _trace_time(text)
    changes = to_volumes.changes_until(trace, session, after_ns)
    with cdp.open(session.volume, settings=state.settings) as volume:
        seq, ts_ns = to_volumes.moment_of(volume, session, changes)
    return {
        "volume": session.volume,
        "trace_seconds": after_ns / 1e9,
        "changes": changes,
        "point": f"#{seq}",
        "seq": seq,
        "ts_ns": ts_ns,
        "time": utc(ts_ns),
    }


def _trace_time(text: str) -> int:
    """Nanoseconds from the trace's first record."""
    found = _CLOCK.fullmatch(text.strip())
    if not found:
        raise InvalidRequest(
            f"{text!r} is not a time of a trace", "write 12:34, 1:02:03.5 or 90.5s, from its first record"
        )
    hours, minutes, seconds, part, plain, plain_part = found.groups()
    if plain is not None:
        return int(plain) * 10**9 + int((plain_part or "").ljust(9, "0"))
    return ((int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)) * 10**9 + int((part or "").ljust(9, "0"))


def _verify(
    state: State, session: "Session", trace: "Trace", o: dict[str, Any], *, all_flushes: bool
) -> dict[str, Any]:
    import cdp
    from cdp.replay.verify import verify

    if "-" in [source.path for source in trace.sources]:
        raise InvalidRequest("a trace from a pipe cannot be read again to verify it", "store it in a file")
    with cdp.open(session.volume, settings=state.settings) as volume, Progress(f"verifying {volume.name}") as bar:
        found = verify(
            volume,
            session,
            trace,
            moments=o["moments"],
            all_flushes=all_flushes,
            progress=lambda records: bar.at(0, text=f"{records:,} records"),
            moments_progress=lambda done, total: bar.at(done, total, f"{done:,} of {total:,} moments"),
        )
    return found.report(session.volume, trace)


@contextmanager
def _stopping(replay: "Replay") -> Iterator[None]:
    """The first Ctrl-C ends the replay after the current slice; a second one interrupts as usual."""

    def handler(_number: int, _frame: Any) -> None:
        replay.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: the caller decides when it stops
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _shower(progress: Progress) -> "Callable[[Outcome], None] | None":
    """What shows how far a replay is, and how fast; None where nobody sees it."""
    if not progress.shown:
        return None

    def show(out: "Outcome") -> None:
        now = out.samples[-1]
        then = out.samples[-min(11, len(out.samples))] if len(out.samples) > 1 else (0, 0, 0, 0)
        seconds = max(now[0] - then[0], 1) / 1e9
        progress.at(out.records, text=f"{(now[1] - then[1]) / seconds / (1 << 20):,.0f} MiB/s written, "
                                      f"{(now[3] - then[3]) / seconds:,.0f} requests/s")

    return show

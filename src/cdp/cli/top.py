"""top: what served volumes do now, again and again."""
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import click

from cdp.cli import cli, exits
from cdp.cli.base import State, command
from cdp.cli.refs import volume_only
from cdp.text.sizes import parse_duration_ms
from cdpcore.base.errors import CdpError, InvalidRequest, Unavailable

if TYPE_CHECKING:
    from cdp.cli.top_view import Row
    from cdp.service.locate import Location
    from cdp.service.remote import RemoteService
    from cdp.views import MetricsView

LEAST_MS, MOST_MS = 50, 3_600_000


@command(cli, "top", examples=[
    ("cdp top", "all volumes that are served, one line each; the arrows choose one, q ends it"),
    ("cdp top web", "one of them"),
    ("cdp top --interval 10s | tee load.txt", "plain lines, where the output is not a terminal"),
    ("cdp top web --once --json | jq .volumes[0].requests.write.p99_ns", "one interval, for a script"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND, exits.UNAVAILABLE, exits.INTERRUPTED])
@click.argument("volume", required=False)
@click.option("--interval", default="1s", metavar="TIME", help="Of a measurement; 50ms to 1h. [default: 1s]")
@click.option("--once", is_flag=True, help="Measure one interval, print it, end.")
def top(state: State, volume: str | None, interval: str, once: bool) -> None:
    """Show what served volumes do now.

    Requests a second with their latencies (p50, p99: half of them, 99 of 100 were not slower), the stages that they go
    through, what reads were answered from, and what waits. BUSY is the time of a stage in a second of time: 100% is one
    thread, or one request, all the time. With --json one document an interval.
    """
    interval_ms = parse_duration_ms(interval, "--interval")
    if not LEAST_MS <= interval_ms <= MOST_MS:
        raise InvalidRequest(f"--interval {interval} is out of range", "write 50ms to 1h")
    location = volume_only(volume, "top") if volume is not None else None
    with Watch(location) as watch:
        if once:
            watch.measure(interval_ms / 1000)
            _print(state, watch)
        elif sys.stdout.isatty() and sys.stdin.isatty() and not state.as_json:
            _live(watch, interval_ms / 1000)
        else:
            while True:
                watch.measure(interval_ms / 1000)
                _print(state, watch)


class Watch:
    """The volumes that are looked at: one, or all that are served, found again before each look. One thread.

    Raises NotFound, Unavailable where the one volume is not served; while all are looked at, those that go away are
    left out."""

    def __init__(self, location: "Location | None"):
        self._location = location
        self._known: dict[tuple[str, str], RemoteService] = {}
        self._looks: dict[tuple[str, str], MetricsView] = {}
        self._silent: list[str] = []
        self._stack = ExitStack()
        self.rows: list[Row] = []
        self.views: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._find()
        self._looks = self._look()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def measure(self, seconds: float, wait: Callable[[float], object] = time.sleep) -> None:
        """Wait, look, and set `rows` and `views` to what came since the look before. `wait` may end early."""
        from cdp.cli.top_view import Row
        from cdp.service.rates import between

        wait(seconds)
        self._find()
        before, self._looks = self._looks, self._look()
        self.rows, self.views = [], []
        for key, now in self._looks.items():
            rates = between(before[key], now) if key in before else None
            self.rows.append(Row(key[1], rates, "" if rates else "was just found"))
            if rates:
                self.views.append({"volume": key[1], "admin_socket": key[0], **rates})
        self.rows += [Row(os.path.basename(path), None, "does not answer") for path in self._silent]

    def _look(self) -> "dict[tuple[str, str], MetricsView]":
        looks = {}
        for key, service in list(self._known.items()):
            try:
                looks[key] = service.metrics(buckets=True)
            except CdpError:
                if self._location is not None:
                    raise
                del self._known[key]
        return looks

    def _find(self) -> None:
        from cdp.service.connect import find_server

        if self._location is not None:
            if not self._known:
                service = find_server(self._location)
                if service is None:
                    raise Unavailable(f"{self._location.text} is not served, so there is nothing to see",
                                      f"cdp serve {self._location.text}")
                self._stack.enter_context(service)
                self._known[(service.socket_path, self._location.text)] = service
            return
        from cdp.serve.addresses import runtime_directory
        from cdp.service.locate import Location
        from cdp.service.remote import RemoteService
        from cdp.service.servers import servers

        found = dict(servers(runtime_directory()))
        self._silent = [path for path, volumes in found.items() if volumes is None]
        there = [(path, name) for path, volumes in found.items() for name in volumes or ()]
        for key in there:
            if key not in self._known:
                self._known[key] = self._stack.enter_context(RemoteService(key[0], key[1], Location(key[1])))
        self._known = {key: self._known[key] for key in sorted(there, key=lambda key: (key[1], key[0]))}


def _print(state: State, watch: Watch) -> None:
    from cdp.cli.base import emit
    from cdp.cli.top_view import details, summary

    if not watch.rows:
        emit(state, {"volumes": []}, "nothing is served")
        return
    lines = summary(watch.rows)
    if len(watch.rows) == 1:
        lines += ["", *details(watch.rows[0])]
    emit(state, {"volumes": watch.views}, lines)


def _live(watch: Watch, seconds: float) -> None:
    """Until q or Ctrl-C, which end it well."""
    from cdp.cli.terminal import DOWN, QUIT, UP, taken_over
    from cdp.cli.top_view import details, summary

    chosen, over = 0, False
    try:
        with taken_over() as screen:
            screen.show(["looking ..."])

            def draw() -> None:
                nonlocal chosen
                chosen = max(0, min(chosen, len(watch.rows) - 1))
                head = f"cdp top: every {seconds:g} s; arrows choose, q ends it    {time.strftime('%H:%M:%S')}"
                lines = [head, ""]
                if watch.rows:
                    above = summary(watch.rows)
                    above[chosen + 1] = f"\x1b[7m{above[chosen + 1].ljust(screen.size()[0])}\x1b[0m"
                    lines += [*above, "", *details(watch.rows[chosen])]
                else:
                    lines.append("nothing is served")
                screen.show(lines)

            def wait(for_s: float) -> None:
                nonlocal chosen, over
                until = time.monotonic() + for_s
                while not over and (left := until - time.monotonic()) > 0:
                    key = screen.key(left)
                    over = key == QUIT
                    if key in (UP, DOWN):
                        chosen += 1 if key == DOWN else -1
                        draw()

            while True:
                watch.measure(seconds, wait)
                if over:
                    return
                draw()
    except KeyboardInterrupt:
        return

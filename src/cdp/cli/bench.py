"""bench: what a volume does on this machine, beside a plain file."""
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli, exits
from cdp.cli.base import State, command, emit, note
from cdp.cli.extras import require
from cdp.cli.output import say
from cdp.cli.refs import volume_only
from cdp.text.sizes import parse_duration_ms, parse_size
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.bench.load import Load
    from cdp.bench.place import Disk

SIZE = "1G"


@command(cli, "bench", examples=[
    ("cdp bench --scratch /srv", "4 KiB random writes on a new volume in /srv and on a plain file beside it"),
    ("cdp bench web --read-pct 70 --flush-every 32", "a mix on a throw-away image of web: web itself is not changed"),
    ("cdp bench --scratch . --bs 64K --iodepth 8 --jobs 2 --plot latency.png", "more, and a picture of it"),
    ("cdp bench --scratch . --read-pct 100 --path nbd --json | jq .paths.nbd.ratio", "one figure for a script"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND, exits.BUSY, exits.NO_SPACE, exits.UNAVAILABLE,
               exits.INTERRUPTED])
@click.argument("volume", required=False)
@click.option("--scratch", metavar="DIR", help="A new volume in this folder, removed at the end, instead of VOLUME.")
@click.option("--read-pct", type=click.IntRange(0, 100), default=0, help="Reads, of 100 requests. [default: 0]")
@click.option("--bs", default="4K", metavar="SIZE", help="Of a request: 512 to 32M. [default: 4K]")
@click.option("--iodepth", type=click.IntRange(1, 256), default=32,
              help="Requests under way on a connection. [default: 32]")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, help="Connections; in process: threads. [default: 1]")
@click.option("--flush-every", type=click.IntRange(0), default=0, metavar="N",
              help="A flush after so many writes of a job. [default: 0, none]")
@click.option("--sequential", is_flag=True, help="One block after the other; else at random.")
@click.option("--size", metavar="SIZE", help=f"The first so much of the disk is used. [default: {SIZE}, or all of it]")
@click.option("--runtime", default="3s", metavar="TIME", help="Of one measurement; 100ms to 1h. [default: 3s]")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, help="Of all measurements, in turn. [default: 3]")
@click.option("--path", type=click.Choice(["nbd", "process"]), help="Only this one. [default: both]")
@click.option("--plot", metavar="FILE", help="A picture: .png, .svg or .pdf.")
def bench(state: State, volume: str | None, scratch: str | None, read_pct: int, bs: str, iodepth: int, jobs: int,
          flush_every: int, sequential: bool, size: str | None, runtime: str, rounds: int, path: str | None,
          plot: str | None) -> None:
    """Measure a volume on this machine, beside a plain file.

    Both are on the same device and take turns, over NBD (cdp's own server, in this process) and in process, with the
    same requests. Shown are requests a second, the ratio of the two (median, smallest, largest of the rounds), and how
    long requests took. What is written to a VOLUME goes to a writable image of it, which is deleted at the end; of one
    that is served, only NBD is measured. A measurement ends early where it would fill the device.
    """
    if (volume is None) == (scratch is None):
        raise InvalidRequest("one thing is measured: a volume, or a new one", "give VOLUME, or --scratch DIR")
    load = _load(read_pct, bs, iodepth, jobs, flush_every, sequential, runtime)
    wanted = None if size is None else parse_size(size, "--size")
    if plot is not None:
        require("matplotlib")
        if Path(plot).suffix not in (".png", ".svg", ".pdf"):
            raise InvalidRequest(f"{plot}: no such kind of picture", "name it .png, .svg or .pdf")
    from cdp.bench.place import signals_as_interrupt
    from cdp.bench.report import as_json, facts, picture
    from cdp.bench.run import PATHS, measure
    from cdp.cli.bench_view import lines

    names = [path] if path else list(PATHS)
    with signals_as_interrupt(), ExitStack() as stack:
        if scratch is not None:
            beside = Path(scratch)
            load, disks = _scratch(state, stack, beside, wanted, load, rounds * len(names))
        else:
            assert volume is not None
            beside, load, disks = _image(state, stack, volume, wanted, load, rounds * len(names))
        found = facts(beside)
        paths = measure(disks, load, names, rounds, note if not state.as_json else lambda text: None)
        if not paths:
            raise InvalidRequest(f"{volume} is served: it can be measured only over NBD", "leave off --path process")
    if plot is not None:
        picture(paths, load, plot)
    emit(state, as_json(paths, load, rounds, found), lines(paths, load, rounds, found))
    if plot is not None:
        say(f"cdp: wrote {plot}")


def _load(read_pct: int, bs: str, iodepth: int, jobs: int, flush_every: int, sequential: bool, runtime: str) -> "Load":
    from cdp.bench.load import Load

    block_bytes = parse_size(bs, "--bs")
    if block_bytes % 512 or not 512 <= block_bytes <= 32 << 20:
        raise InvalidRequest(f"--bs {bs} is not a size of requests", "write a multiple of 512 bytes, up to 32M")
    runtime_ms = parse_duration_ms(runtime, "--runtime")
    if not 100 <= runtime_ms <= 3_600_000:
        raise InvalidRequest(f"--runtime {runtime} is out of range", "write 100ms to 1h")
    return Load(block_bytes=block_bytes, span_bytes=0, read_percent=read_pct, depth=iodepth, jobs=jobs,
                flush_every=flush_every, sequential=sequential, seconds=runtime_ms / 1000)


def _fitted(load: "Load", span_bytes: int, write_bytes: int) -> "Load":
    """The load on a disk of so many bytes. Raises InvalidRequest where it has no room for the jobs."""
    from dataclasses import replace

    span_bytes -= span_bytes % load.block_bytes
    if span_bytes < load.block_bytes * load.jobs:
        raise InvalidRequest(f"{span_bytes} bytes have no room for {load.jobs} jobs of {load.block_bytes} bytes",
                             "use a larger --size, or fewer --jobs")
    return replace(load, span_bytes=span_bytes,
                   write_bytes=write_bytes if load.read_percent < 100 else load.write_bytes)


def _scratch(state: State, stack: ExitStack, beside: Path, wanted: int | None, load: "Load",
             measurements: int) -> "tuple[Load, list[Disk]]":
    from cdp.bench.place import folder, plain_and, write_budget

    place = stack.enter_context(folder(beside))
    span_bytes = wanted if wanted is not None else parse_size(SIZE)
    load = _fitted(load, span_bytes, write_budget(place, 2 * span_bytes, measurements))
    server = stack.enter_context(plain_and(place, load.span_bytes))
    return load, [server.scratch(state.settings), server.plain()]


def _image(state: State, stack: ExitStack, volume: str, wanted: int | None, load: "Load",
           measurements: int) -> "tuple[Path, Load, list[Disk]]":
    from cdp.bench.place import folder, plain_and, write_budget
    from cdp.service.connect import connect
    from cdp.service.local import VolumeService

    location = volume_only(volume, "bench")
    service: Any = stack.enter_context(connect(location, state.settings))
    size_bytes = service.info()["size_bytes"]
    beside = Path(os.path.dirname(os.path.abspath(location.root)))
    place = stack.enter_context(folder(beside))
    span_bytes = min(size_bytes, wanted if wanted is not None else parse_size(SIZE))
    load = _fitted(load, span_bytes, write_budget(place, span_bytes, measurements))
    server = stack.enter_context(plain_and(place, load.span_bytes))
    local = isinstance(service, VolumeService)
    image = server.image(service.volume) if local else server.remote_image(service, os.path.basename(location.text))
    return beside, load, [image, server.plain()]

"""`python -m bench`: all benchmarks; `python -m bench nbd` (or choosing, engine, finding, history, micro, failover,
table): one."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench import choosing, engine, failover, finding, history, micro, nbd, peers, reach
from bench.fio import FioFailed
from bench.history import StepFailed
from bench.peers import PeerFailed
from bench.scratch import NoSpace, scratch, signals_as_interrupt
from bench.witness import WitnessFailed


def speak(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def options_of(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The options of a benchmark: those that every one has, then its own, in this order in the help."""

    def wrap(function: Any) -> Any:
        for option in reversed((*EVERY, *options)):
            function = option(function)
        return function

    return wrap


EVERY = (
    click.option("--quick", is_flag=True, help="A tiny run that proves it works; its figures mean nothing."),
    click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False, writable=True),
                 help="Append one line of JSON a result to this file."),
    click.option("--dir", "directory", type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
                 help="Where the files go, and so the file system that is measured. [default: /var/tmp]"),
)


def count(name: str, low: int, high: int, default: object, what: str = "") -> Callable[[Any], Any]:
    """A whole number; not given: the benchmark's default, which the help shows."""
    return click.option(name, type=click.IntRange(low, high), help=f"{what} [default: {default}]".lstrip())


def measured(defaults: Any, workloads: Iterable[str], against: str, named: str, others: Iterable[str],
             least_seconds: float = 0.05) -> Callable[[Any], Any]:
    """Of what runs workloads against several targets in rounds. `against`: the option that chooses among them, `named`
    its parameter."""
    return options_of(
        count("--rounds", 1, 1000, defaults.rounds),
        click.option("--seconds", type=click.FloatRange(least_seconds, 600),
                     help=f"Of each measurement. [default: {defaults.seconds:g}]"),
        count("--size-mib", 8, 1 << 20, defaults.size_bytes >> 20, "Of the disk."),
        click.option("--workload", "workloads", multiple=True, type=click.Choice(list(workloads)),
                     help="[default: all]"),
        click.option(against, named, multiple=True, type=click.Choice(list(others)),
                     help=f"[default: {', '.join(getattr(defaults, named))}]"),
    )


def guarded(body: Callable[[Any], int], directory: Path | None) -> None:
    """Run in a scratch folder that is always removed; a benchmark that measured nothing fails."""
    with signals_as_interrupt():
        try:
            with scratch(directory) as place:
                speak(f"files: {place.data} (removed afterwards)")
                measured = body(place)
        except (NoSpace, FioFailed, PeerFailed, StepFailed, WitnessFailed) as error:
            raise click.ClickException(str(error)) from None
    if not measured:
        raise click.ClickException("nothing was measured")


def overridden(options: Any, size_mib: int | None = None, **given: Any) -> Any:
    """The options with what was given on the command line."""
    given["size_bytes"] = size_mib and size_mib << 20
    return replace(options, **{key: value for key, value in given.items() if value not in (None, ())})


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@options_of()
@click.pass_context
def main(ctx: click.Context, quick: bool, json_path: Path | None, directory: Path | None) -> None:
    """Benchmarks of cdp. Without a command all of them, one after the other, which takes some 15 minutes; what cannot
    run here is named."""
    if ctx.invoked_subcommand is not None:
        if quick or json_path or directory:
            raise click.UsageError(f"give options behind the command: {ctx.invoked_subcommand} ...")
        return
    measured = 0
    for name in ("micro", "engine", "nbd", "history"):
        try:
            ctx.invoke(main.commands[name], quick=quick, json_path=json_path, directory=directory)
            measured += 1
        except click.ClickException as error:
            speak(f"{name}: {error.message}")
    if not measured:
        raise click.ClickException("nothing was measured")


@main.command("nbd")
@measured(nbd.Options, nbd.WORKLOADS, "--peer", "peers", peers.PEERS)
def nbd_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """Our NBD server side by side with nbdkit and qemu-nbd."""
    options = overridden(nbd.QUICK if quick else nbd.Options(), **given)
    guarded(lambda place: nbd.run(place, options, speak, json_path), directory)


@main.command("choosing")
@measured(choosing.OPTIONS, choosing.WORKLOADS, "--peer", "peers", choosing.PEERS)
def choosing_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """Which kind of volume for which load: after-images, before-images, no history, qcow2 snapshots."""
    options = overridden(choosing.QUICK if quick else choosing.OPTIONS, **given)
    guarded(lambda place: choosing.run(place, options, speak, json_path), directory)


@main.command("table")
@options_of(
    count("--rounds", 1, 1000, reach.DEFAULTS.rounds),
    click.option("--seconds", type=click.FloatRange(0.05, 600),
                 help=f"Of each measurement. [default: {reach.DEFAULTS.seconds:g}]"),
    count("--size-mib", 8, 1 << 20, reach.DEFAULTS.size_bytes >> 20, "Of the disk."),
    click.option("--row", "workloads", multiple=True, type=click.Choice(list(reach.ROWS)), help="[default: all]"),
)
def table_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """The table of docs/performance.md: what is to be reached, and what is. Kept in bench/results/ too, but for
    --quick."""
    options = overridden(reach.QUICK if quick else reach.DEFAULTS, **given)
    kept = json_path or (None if quick else reach.RESULTS)
    guarded(lambda place: reach.run(place, options, speak, kept), directory)


@main.command("engine")
@measured(engine.Options, engine.WORKLOADS, "--target", "targets", engine.TARGETS, least_seconds=0.01)
def engine_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """The engine in one process, side by side with a plain file."""
    options = overridden(engine.QUICK if quick else engine.Options(), **given)
    guarded(lambda place: engine.run(place, options, speak, json_path), directory)


@main.command("history")
@options_of(
    count("--records", 1000, 10**9, "10,000,000 of 512 bytes, then 1,000,000 of 4 KiB"),
    click.option("--length", "length_bytes", type=click.IntRange(512, 1 << 20), help="Bytes of a record."),
    count("--size-mib", 8, 1 << 20, history.Options.size_bytes >> 20, "Of the volume."),
    count("--points", 1, 100_000, history.Options.points, "Moments to open."),
    count("--restores", 1, 1000, history.Options.restores, "Restores to make."),
    click.option("--mode", type=click.Choice(["after", "before"]), help="Kind of volume. [default: after]"),
)
def history_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """A long history: opening any moment of it, going back, reading, memory, recovery."""
    one_case = given["records"] or given["length_bytes"] or given["mode"]
    cases = history.QUICK if quick else history.DEFAULT[:1] if one_case else history.DEFAULT
    chosen = [overridden(case, **given) for case in cases]
    guarded(lambda place: sum(history.run(place, o, speak, json_path) for o in chosen), directory)


@main.command("finding")
@options_of(
    count("--records", 1000, 10**8, finding.Options.records, "Of the volume for versions and bisect."),
    count("--history-records", 1000, 10**9, finding.Options.history_records, "Of the volume for history."),
    click.option("--part", "parts", multiple=True, type=click.Choice(list(finding.PARTS)), help="[default: all]"),
)
def finding_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """The ways to the right moment: diff, history, activity, versions, bisect, groups."""
    options = overridden(finding.QUICK if quick else finding.Options(), **given)
    guarded(lambda place: finding.run(place, options, speak, json_path), directory)


@main.command("failover")
@options_of(
    count("--kills", 0, 1000, failover.Options.kills, "By SIGKILL."),
    count("--stops", 0, 100, failover.Options.stops, "By SIGSTOP."),
    count("--switches", 0, 100, failover.Options.switches, "Handed over."),
    count("--segment-mib", 8, 1024, failover.Options.segment_mib),
    click.option("--seed", type=int, help=f"[default: {failover.Options.seed}]"),
)
def failover_command(quick: bool, json_path: Path | None, directory: Path | None, **given: Any) -> None:
    """`cdp ha serve` while its active process is killed, stopped and replaced: pauses, and what was lost."""
    options = overridden(failover.QUICK if quick else failover.Options(), **given)
    guarded(lambda place: failover.run(place, options, speak, json_path), directory)


@main.command("micro")
@options_of()
def micro_command(quick: bool, json_path: Path | None, directory: Path | None) -> None:
    """Small parts in process, by pytest-benchmark."""
    guarded(lambda place: micro.run(place, quick, speak, json_path), directory)


if __name__ == "__main__":
    main()

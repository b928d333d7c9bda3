"""`python -m bench`: all benchmarks; `python -m bench nbd|choosing|engine|history|micro|failover`: one of them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench import choosing, engine, failover, history, micro, nbd, peers
from bench.fio import FioFailed
from bench.history import StepFailed
from bench.peers import PeerFailed
from bench.scratch import NoSpace, scratch, signals_as_interrupt
from bench.witness import WitnessFailed


def speak(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def shared(function: Any) -> Any:
    """Options of every benchmark."""
    for option in reversed(
        (
            click.option("--quick", is_flag=True, help="A tiny run that proves it works; its figures mean nothing."),
            click.option(
                "--json",
                "json_path",
                type=click.Path(path_type=Path, dir_okay=False, writable=True),
                help="Append one line of JSON a result to this file.",
            ),
            click.option(
                "--dir",
                "directory",
                type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
                help="Where the files go, and so the file system that is measured. [default: /var/tmp]",
            ),
        )
    ):
        function = option(function)
    return function


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


def overridden(options: Any, **given: Any) -> Any:
    return replace(options, **{key: value for key, value in given.items() if value not in (None, ())})


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@shared
@click.pass_context
def main(ctx: click.Context, quick: bool, json_path: Path | None, directory: Path | None) -> None:
    """Benchmarks of cdp. Without a command all of them, one after the other, which takes some 15 minutes; what cannot run
    here is named."""
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
@shared
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"[default: {nbd.Options.rounds}]")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 600), help=f"Of each measurement. [default: {nbd.Options.seconds:g}]"
)
@click.option(
    "--size-mib", type=click.IntRange(8, 1 << 20), help=f"Of the disk. [default: {nbd.Options.size_bytes >> 20}]"
)
@click.option("--workload", "workloads", multiple=True, type=click.Choice(list(nbd.WORKLOADS)), help="[default: all]")
@click.option("--peer", "names", multiple=True, type=click.Choice(list(peers.PEERS)), help="[default: all]")
def nbd_command(
    quick: bool,
    json_path: Path | None,
    directory: Path | None,
    rounds: int | None,
    seconds: float | None,
    size_mib: int | None,
    workloads: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    """Our NBD server side by side with nbdkit and qemu-nbd."""
    options = overridden(
        nbd.QUICK if quick else nbd.Options(),
        rounds=rounds,
        seconds=seconds,
        size_bytes=size_mib and size_mib << 20,
        workloads=workloads,
        peers=names,
    )
    guarded(lambda place: nbd.run(place, options, speak, json_path), directory)


@main.command("choosing")
@shared
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"[default: {choosing.OPTIONS.rounds}]")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 600), help=f"Of each measurement. [default: {choosing.OPTIONS.seconds:g}]"
)
@click.option(
    "--size-mib", type=click.IntRange(8, 1 << 20), help=f"Of the disk. [default: {choosing.OPTIONS.size_bytes >> 20}]"
)
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(list(choosing.WORKLOADS)), help="[default: all]"
)
@click.option("--peer", "names", multiple=True, type=click.Choice(list(choosing.PEERS)), help="[default: all]")
def choosing_command(
    quick: bool,
    json_path: Path | None,
    directory: Path | None,
    rounds: int | None,
    seconds: float | None,
    size_mib: int | None,
    workloads: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    """Which kind of volume for which load: after-images, before-images, no history, qcow2 snapshots."""
    options = overridden(
        choosing.QUICK if quick else choosing.OPTIONS,
        rounds=rounds,
        seconds=seconds,
        size_bytes=size_mib and size_mib << 20,
        workloads=workloads,
        peers=names,
    )
    guarded(lambda place: choosing.run(place, options, speak, json_path), directory)


@main.command("engine")
@shared
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"[default: {engine.Options.rounds}]")
@click.option(
    "--seconds", type=click.FloatRange(0.01, 600), help=f"Of each measurement. [default: {engine.Options.seconds:g}]"
)
@click.option(
    "--size-mib", type=click.IntRange(8, 1 << 20), help=f"Of the disk. [default: {engine.Options.size_bytes >> 20}]"
)
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(list(engine.WORKLOADS)), help="[default: all]"
)
@click.option("--target", "targets", multiple=True, type=click.Choice(list(engine.TARGETS)), help="[default: all]")
def engine_command(
    quick: bool,
    json_path: Path | None,
    directory: Path | None,
    rounds: int | None,
    seconds: float | None,
    size_mib: int | None,
    workloads: tuple[str, ...],
    targets: tuple[str, ...],
) -> None:
    """The engine in one process, side by side with a plain file."""
    options = overridden(
        engine.QUICK if quick else engine.Options(),
        rounds=rounds,
        seconds=seconds,
        size_bytes=size_mib and size_mib << 20,
        workloads=workloads,
        targets=targets,
    )
    guarded(lambda place: engine.run(place, options, speak, json_path), directory)


@main.command("history")
@shared
@click.option(
    "--records", type=click.IntRange(1000, 10**9), help="[default: 10,000,000 of 512 bytes, then 1,000,000 of 4 KiB]"
)
@click.option("--length", "length_bytes", type=click.IntRange(512, 1 << 20), help="Bytes of a record.")
@click.option(
    "--size-mib", type=click.IntRange(8, 1 << 20), help=f"Of the volume. [default: {history.Options.size_bytes >> 20}]"
)
@click.option("--points", type=click.IntRange(1, 100_000), help=f"Moments to open. [default: {history.Options.points}]")
@click.option(
    "--restores", type=click.IntRange(1, 1000), help=f"Restores to make. [default: {history.Options.restores}]"
)
@click.option("--mode", type=click.Choice(["after", "before"]), help="Kind of volume. [default: after]")
def history_command(
    quick: bool,
    json_path: Path | None,
    directory: Path | None,
    records: int | None,
    length_bytes: int | None,
    size_mib: int | None,
    points: int | None,
    restores: int | None,
    mode: str | None,
) -> None:
    """A long history: opening any moment of it, going back, reading, memory, recovery."""
    cases = history.QUICK if quick else history.DEFAULT[:1] if records or length_bytes or mode else history.DEFAULT
    chosen = [
        overridden(
            o,
            records=records,
            length_bytes=length_bytes,
            size_bytes=size_mib and size_mib << 20,
            points=points,
            restores=restores,
            mode=mode,
        )
        for o in cases
    ]
    guarded(lambda place: sum(history.run(place, o, speak, json_path) for o in chosen), directory)


@main.command("failover")
@shared
@click.option("--kills", type=click.IntRange(0, 1000), help=f"By SIGKILL. [default: {failover.Options.kills}]")
@click.option("--stops", type=click.IntRange(0, 100), help=f"By SIGSTOP. [default: {failover.Options.stops}]")
@click.option("--switches", type=click.IntRange(0, 100), help=f"Handed over. [default: {failover.Options.switches}]")
@click.option("--segment-mib", type=click.IntRange(8, 1024), help=f"[default: {failover.Options.segment_mib}]")
@click.option("--seed", type=int, help=f"[default: {failover.Options.seed}]")
def failover_command(
    quick: bool,
    json_path: Path | None,
    directory: Path | None,
    kills: int | None,
    stops: int | None,
    switches: int | None,
    segment_mib: int | None,
    seed: int | None,
) -> None:
    """`cdp ha serve` while its active process is killed, stopped and replaced: pauses, and whether anything was lost."""
    base = failover.QUICK if quick else failover.Options()
    given = {"kills": kills, "stops": stops, "switches": switches, "segment_mib": segment_mib, "seed": seed}
    options = replace(base, **{key: value for key, value in given.items() if value is not None})
    guarded(lambda place: failover.run(place, options, speak, json_path), directory)


@main.command("micro")
@shared
def micro_command(quick: bool, json_path: Path | None, directory: Path | None) -> None:
    """Small parts in process, by pytest-benchmark."""
    guarded(lambda place: micro.run(place, quick, speak, json_path), directory)


if __name__ == "__main__":
    main()

"""ha serve, ha status and ha switch: a service whose clients never notice the death of a server process."""
import os

import click

from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, SERVE_EXITS, SERVER_KEYS, State, announce, command, emit, table
from cdp.text.sizes import approx_size
from cdpcore.base.errors import NotFound

ASK_EXITS = (exits.OK, exits.USAGE, exits.NOT_FOUND, exits.BUSY, exits.UNAVAILABLE)


@cli.group()
def ha() -> None:
    """Serve volumes so that clients never notice the death of a server process.

    A gateway keeps the clients' connections, one time store daemon (TSD) keeps the volumes, a second one stands by. See
    docs/ha.md.
    """


@command(ha, "serve", setting_flags=(*SERVER_KEYS, *ENGINE_KEYS), quiet=False, examples=[
    ("cdp ha serve web --unix /run/web.sock", "a gateway, an active and a standby TSD; prints the URIs"),
    ("cdp ha serve web db --tcp localhost:10809", "two volumes over TCP"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
@click.option("--control", metavar="SOCK",
              help="Unix socket for 'cdp ha status' and 'cdp ha switch' [default: in the runtime folder].")
@click.option("--hang-ms", type=click.IntRange(200, 60000), default=1000, show_default=True,
              help="A process that is silent for so many milliseconds is killed and replaced.")
def ha_serve(state: State, paths: tuple[str, ...], read_only: bool, control: str | None, hang_ms: int) -> None:
    """Serve volumes with a standby.

    Exports are those of 'cdp serve'. When the active daemon dies or hangs, the standby takes over: clients stay
    connected, see no error, and lose nothing that was acknowledged. Runs until SIGTERM, SIGINT or SIGHUP.
    """
    from cdp.ha.manager import Manager
    from cdp.ipc.stop_signals import stop_on_signal

    manager = Manager(paths, state.settings, control=control, read_only=read_only, hang_seconds=hang_ms / 1000)
    with stop_on_signal(manager.stop), manager:
        manager.ready = lambda: announce(state, manager.uris, manager.view())
        manager.run()


def _control(control: str | None) -> str:
    """The control socket that was meant: the one given, else the only one there is."""
    if control:
        return control
    from cdp.ipc.unix_socket import answers
    from cdp.serve.addresses import runtime_directory

    folder = runtime_directory()
    found = [path for name in sorted(os.listdir(folder))
             if name.endswith(".ha.sock") and answers(path := os.path.join(folder, name))]
    if not found:
        raise NotFound(f"no 'cdp ha serve' runs here (its socket would be in {folder})",
                       "start one, or give --control SOCK")
    if len(found) > 1:
        raise NotFound(f"{len(found)} services run: {', '.join(found)}", "say which with --control SOCK")
    return found[0]

CONTROL = click.option("--control", metavar="SOCK", help="Socket of the service [default: the only one that runs].")


@command(ha, "status", examples=[
    ("cdp ha status", "the processes, who owns which volume, and the failovers so far"),
    ("cdp ha status --json", "the same for programs"),
], exit_codes=ASK_EXITS)
@CONTROL
def ha_status(state: State, control: str | None) -> None:
    """Show the processes and owners of a service."""
    from cdp.ha.manager import ask

    view = ask(_control(control), {"op": "status"})
    lines = table(("ROLE", "PROCESS", "STATE"), [(p["role"], str(p["pid"]), p["state"]) for p in view["processes"]])
    luns = [(str(one["lun"]), one["path"], str(one["owner"] or "-")) for one in view["luns"]]
    lines += ["", *table(("LUN", "VOLUME", "OWNER"), luns)]
    if memory := view.get("connection_memory"):
        has, most = approx_size(memory["used_bytes"]), approx_size(memory["limit_bytes"])
        share = f"{has} of the {most} that they share"
        lines += ["", f"connections: {view['connections']}, with {share}; {memory['waiting']} wait for some"]
    if view["failovers"]:
        lines += ["", *table(("CHANGE", "FROM", "TO", "OPEN AFTER", "SERVED AFTER", "REPLAYED"), [
            (f["why"], str(f["old_pid"]), str(f["new_pid"]), f"{f['opened_ms']:.0f} ms", f"{f['serving_ms']:.0f} ms",
             str(f["replayed"]))
            for f in view["failovers"][-10:]])]
    emit(state, view, lines)


@command(ha, "switch", examples=[
    ("cdp ha switch", "hand the volumes to the standby, as after an upgrade of the program"),
    ("cdp ha switch --gateway", "replace the gateway; clients stay connected"),
], exit_codes=ASK_EXITS)
@CONTROL
@click.option("--gateway", is_flag=True, help="Replace the gateway by a new process instead.")
@click.option("--force", is_flag=True, help="With --gateway: cut connections that it would wait for.")
def ha_switch(state: State, control: str | None, gateway: bool, force: bool) -> None:
    """Hand the volumes over to the standby.

    The active daemon makes everything durable and ends; clients wait meanwhile, and see no error. A new standby is
    started: do it twice, and both run the program as it is now. With --gateway the clients' connections are handed over
    to a new gateway in the same way.
    """
    from cdp.ha.manager import ask

    if force and not gateway:
        raise click.UsageError("--force is said with --gateway")
    if gateway:
        view = ask(_control(control), {"op": "replace gateway", "force": force})
        emit(state, view, f"process {view['pid']} keeps the connections")
        return
    view = ask(_control(control), {"op": "switch"})
    emit(state, view, f"process {view['pid']} serves the volumes, after {view['serving_ms']:.0f} ms")

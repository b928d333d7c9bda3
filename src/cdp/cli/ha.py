"""ha serve, ha status, ha switch; and by hand: gateway, tsd."""
import json
import os
import sys
import threading

import click

from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, SERVER_KEYS, State, command, emit, note, table
from cdpcore.base.errors import NotFound

SERVE_EXITS = (exits.OK, exits.USAGE, exits.NOT_FOUND, exits.CORRUPT, exits.NO_SPACE, exits.BUSY, exits.UNAVAILABLE)
ASK_EXITS = (exits.OK, exits.USAGE, exits.NOT_FOUND, exits.BUSY, exits.UNAVAILABLE)
LISTEN_KEYS = tuple(key for key in SERVER_KEYS if key != "admin_socket")


@cli.group()
def ha() -> None:
    """Serve volumes so that clients never notice the death of a server process.

    A gateway keeps the clients' connections, one time store daemon (TSD) keeps the volumes, a second one stands by. See docs/ha.md.
    """


def _told(state: State, uris: list[str], view: object) -> None:
    if state.as_json:
        click.echo(json.dumps(view, indent=2))
    else:
        for uri in uris:
            click.echo(uri)
    sys.stdout.flush()
    note("ready")


@command(ha, "serve", setting_flags=(*SERVER_KEYS, *ENGINE_KEYS), quiet=False, examples=[
    ("cdp ha serve web --unix /run/web.sock", "a gateway, an active and a standby TSD; prints the URIs"),
    ("cdp ha serve web db --tcp localhost:10809", "two volumes over TCP"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
@click.option("--control", metavar="SOCK", help="Unix socket for 'cdp ha status' and 'cdp ha switch' [default: in the runtime directory].")
@click.option("--hang-ms", type=click.IntRange(200, 60000), default=1000, show_default=True,
              help="A process that is silent for so many milliseconds is killed and replaced.")
def ha_serve(state: State, paths: tuple[str, ...], read_only: bool, control: str | None, hang_ms: int) -> None:
    """Serve volumes with a standby.

    Exports are those of 'cdp serve'. When the active daemon dies or hangs, the standby takes over: clients stay connected, see no
    error, and lose nothing that was acknowledged. Runs until SIGTERM, SIGINT or SIGHUP.
    """
    from cdp.ha.manager import Manager
    from cdp.ipc.stop_signals import stop_on_signal

    manager = Manager(paths, state.settings, control=control, read_only=read_only, hang_seconds=hang_ms / 1000)
    with stop_on_signal(manager.stop), manager:
        manager.ready = lambda: _told(state, manager.uris, manager.view())
        manager.run()


def _control(control: str | None) -> str:
    """The control socket that was meant: the one given, else the only one there is."""
    if control:
        return control
    from cdp.ipc.unix_socket import answers
    from cdp.serve.addresses import runtime_directory

    folder = runtime_directory()
    found = [path for name in sorted(os.listdir(folder)) if name.endswith(".ha.sock") and answers(path := os.path.join(folder, name))]
    if not found:
        raise NotFound(f"no 'cdp ha serve' runs here (its socket would be in {folder})", "start one, or give --control SOCK")
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
    lines += ["", *table(("LUN", "VOLUME", "OWNER"), [(str(one["lun"]), one["path"], str(one["owner"] or "-")) for one in view["luns"]])]
    if view["failovers"]:
        lines += ["", *table(("CHANGE", "FROM", "TO", "OPEN AFTER", "SERVED AFTER", "REPLAYED"), [
            (f["why"], str(f["old_pid"]), str(f["new_pid"]), f"{f['opened_ms']:.0f} ms", f"{f['serving_ms']:.0f} ms", str(f["replayed"]))
            for f in view["failovers"][-10:]])]
    emit(state, view, lines)


@command(ha, "switch", examples=[
    ("cdp ha switch", "hand the volumes to the standby, as after an upgrade of the program"),
], exit_codes=ASK_EXITS)
@CONTROL
def ha_switch(state: State, control: str | None) -> None:
    """Hand the volumes over to the standby.

    The active daemon makes everything durable and ends; clients wait meanwhile, and see no error. A new standby is started: do it
    twice, and both run the program as it is now.
    """
    from cdp.ha.manager import ask

    view = ask(_control(control), {"op": "switch"})
    emit(state, view, f"process {view['pid']} serves the volumes, after {view['serving_ms']:.0f} ms")


@command(cli, "gateway", setting_flags=LISTEN_KEYS, quiet=False, examples=[
    ("cdp gateway --daemons /run/gw.sock --unix /run/web.sock", "for daemons that 'cdp tsd' starts"),
], exit_codes=SERVE_EXITS)
@click.option("--daemons", metavar="SOCK", required=True, help="Unix socket that daemons connect to.")
def gateway(state: State, daemons: str) -> None:
    """Keep clients' connections for daemons that come and go.

    'cdp ha serve' starts one itself. By hand: a gateway, and one 'cdp tsd' at a time. Clients wait while there is none.
    """
    from cdp.ha.gateway import Gateway
    from cdp.ipc.stop_signals import stop_on_signal
    from cdp.nbd import Address, TcpAddress, UnixAddress
    from cdp.serve.addresses import listen_addresses, runtime_sockets, tls_settings

    stop = threading.Event()
    addresses: list[Address] = [UnixAddress(where[1]) if where[0] == "unix" else TcpAddress(*where[1:])
                                for where in listen_addresses(state.settings, runtime_sockets("gateway").nbd)]
    with (stop_on_signal(stop.set),
          Gateway(daemons, addresses, tls=tls_settings(state.settings), max_connections=state.settings.max_connections) as made):
        uris = [made.uri("", i) for i in range(len(made.addresses))]
        _told(state, uris, {"pid": os.getpid(), "daemons": made.control, "uris": uris})
        stop.wait()


@command(cli, "tsd", setting_flags=("admin_socket", *ENGINE_KEYS), quiet=False, examples=[
    ("cdp tsd web --gateway /run/gw.sock", "serve the volume web to the clients of that gateway"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--gateway", "gateway_socket", metavar="SOCK", required=True, help="What 'cdp gateway --daemons' was given.")
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
def tsd(state: State, paths: tuple[str, ...], gateway_socket: str, read_only: bool) -> None:
    """Be a time store daemon: keep volumes for a gateway.

    It can be killed and started again: clients stay connected to the gateway, and lose nothing that was acknowledged. When the gateway
    goes, it makes everything durable and waits for the next.
    """
    from cdp.ha.daemon import Daemon
    from cdp.ipc.stop_signals import stop_on_signal

    daemon = Daemon(gateway_socket, state.settings, read_only)
    daemon.own([os.path.abspath(path) for path in paths])

    def tell() -> None:
        daemon.ready.wait()
        _told(state, [], {"pid": os.getpid(), "volumes": daemon.owned()})

    with stop_on_signal(lambda: threading.Thread(target=daemon.stop, daemon=True).start()):
        threading.Thread(target=tell, daemon=True).start()
        try:
            daemon.serve()
        finally:
            daemon.close()

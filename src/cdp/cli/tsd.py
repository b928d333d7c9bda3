"""tsd: a time store daemon for a gateway."""
import os
import threading

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, SERVE_EXITS, State, announce, command


@command(cli, "tsd", setting_flags=("admin_socket", *ENGINE_KEYS), quiet=False, examples=[
    ("cdp tsd web --gateway /run/gw.sock", "serve the volume web to the clients of that gateway"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--gateway", "gateway_socket", metavar="SOCK", required=True,
              help="What 'cdp gateway --daemons' was given.")
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
def tsd(state: State, paths: tuple[str, ...], gateway_socket: str, read_only: bool) -> None:
    """Be a time store daemon: keep volumes for a gateway.

    It can be killed and started again: clients stay connected to the gateway, and lose nothing that was acknowledged.
    When the gateway goes, it makes everything durable and waits for the next.
    """
    from cdp.ha.daemon import Daemon
    from cdp.ipc.stop_signals import stop_on_signal

    daemon = Daemon(gateway_socket, state.settings, read_only)
    daemon.own([os.path.abspath(path) for path in paths])

    def report() -> None:
        daemon.ready.wait()
        announce(state, [], {"pid": os.getpid(), "volumes": daemon.owned()})

    with stop_on_signal(lambda: threading.Thread(target=daemon.stop, daemon=True).start()):
        threading.Thread(target=report, daemon=True).start()
        try:
            daemon.serve()
        finally:
            daemon.close()

"""gateway: clients' connections, kept for daemons that come and go."""
import os
import threading

import click

from cdp.cli import cli
from cdp.cli.base import SERVE_EXITS, SERVER_KEYS, State, announce, command

LISTEN_KEYS = tuple(key for key in SERVER_KEYS if key not in ("admin_socket", "admin_read_socket"))


@command(cli, "gateway", setting_flags=LISTEN_KEYS, quiet=False, examples=[
    ("cdp gateway --daemons /run/gw.sock --unix /run/web.sock", "for daemons that 'cdp tsd' starts"),
    ("cdp gateway --daemons /run/gw.sock --replace", "a new process takes over; clients stay connected"),
], exit_codes=SERVE_EXITS)
@click.option("--daemons", metavar="SOCK", required=True, help="Unix socket that daemons connect to.")
@click.option("--replace", is_flag=True, help="Take over from the running gateway with this --daemons SOCK.")
@click.option("--force", is_flag=True, help="With --replace: cut connections that it would wait for.")
def gateway(state: State, daemons: str, replace: bool, force: bool) -> None:
    """Keep clients' connections for daemons that come and go.

    'cdp ha serve' starts one itself. By hand: a gateway, and one 'cdp tsd' at a time. Clients wait while there is none.
    """
    from cdp.ha.gateway import Gateway
    from cdp.ipc.stop_signals import stop_on_signal
    from cdp.nbd import Address, TcpAddress, UnixAddress
    from cdp.serve.addresses import connection_memory_bytes, listen_addresses, runtime_sockets, tls_settings

    if force and not replace:
        raise click.UsageError("--force is said with --replace")
    stop = threading.Event()
    settings, addresses = state.settings, list[Address]()
    if not replace or settings.unix_socket or settings.tcp_listen:
        addresses = [UnixAddress(where[1]) if where[0] == "unix" else TcpAddress(*where[1:])
                     for where in listen_addresses(settings, runtime_sockets("gateway").nbd)]
    with (stop_on_signal(stop.set),
          Gateway(daemons, addresses, tls=tls_settings(settings),
                  max_connections=settings.max_connections, memory_bytes=connection_memory_bytes(settings),
                  replace=replace, force=force, replaced=stop.set) as made):
        uris = [made.uri("", i) for i in range(len(made.addresses))]
        announce(state, uris, {"pid": os.getpid(), "daemons": made.control, "uris": uris})
        stop.wait()

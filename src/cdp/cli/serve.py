"""serve: volumes over NBD, until it is stopped."""
import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, SERVE_EXITS, SERVER_KEYS, State, announce, command


@command(cli, "serve", setting_flags=(*SERVER_KEYS, *ENGINE_KEYS), quiet=False, examples=[
    ("cdp serve web", "on a unix socket; prints the URI of every export"),
    ("cdp serve web db --tcp localhost:10809", "two volumes over TCP"),
    ("cdp serve web --tcp 0.0.0.0:10809 --tls require --tls-cert c.pem --tls-key k.pem", "over TLS only"),
    ("nbdinfo 'nbd+unix:///web@-10m?socket=/run/cdp/web.sock'",
     "in another terminal: the volume as of ten minutes ago"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
def serve(state: State, paths: tuple[str, ...], read_only: bool) -> None:
    """Serve volumes over NBD.

    The exports of a volume NAME (the last part of its path): NAME, the volume; NAME@POINT, any past moment of it,
    read-only; NAME/IMAGE, a writable image; NAME/IMAGE@POINT.

    Prints the URI of every export on standard output, then "ready" on standard error, and runs until SIGTERM, SIGINT or
    SIGHUP; a second one ends it at once. A kill loses nothing that a client flushed.
    """
    from cdp.serve.server import Server

    with Server(paths, state.settings, read_only=read_only) as server:
        announce(state, () if state.as_json else server.uris(), server.view())
        server.wait()

"""serve: volumes over NBD, until it is stopped."""
import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, SERVE_EXITS, SERVER_KEYS, State, announce, command
from cdpcore.base.errors import InvalidRequest


@command(cli, "serve", setting_flags=(*SERVER_KEYS, *ENGINE_KEYS), quiet=False, examples=[
    ("cdp serve web", "on a unix socket; prints the URI of every export"),
    ("cdp serve web db --tcp localhost:10809", "two volumes over TCP"),
    ("cdp serve web --tcp 0.0.0.0:10809 --tls require --tls-cert c.pem --tls-key k.pem", "over TLS only"),
    ("cdp serve s3://backups/web", "a volume that is in an archive, to read, with all its moments"),
    ("cdp serve web --replace", "a new process, of a new version for instance, takes over; clients stay connected"),
    ("cdp serve web --timeline localhost:8123", "with a web page of its history; prints its address"),
    ("nbdinfo 'nbd+unix:///web@-10m?socket=/run/cdp/web.sock'",
     "in another terminal: the volume as of ten minutes ago"),
], exit_codes=SERVE_EXITS)
@click.argument("paths", metavar="VOLUME|URL...", nargs=-1, required=True)
@click.option("--read-only", is_flag=True, help="NBD clients cannot write; the other commands of cdp still can.")
@click.option("--replace", is_flag=True, help="Take over from the running server of these volumes.")
@click.option("--force", is_flag=True, help="With --replace: cut connections and commands that it would wait for.")
@click.option("--timeline", metavar="HOST:PORT", help="Offer a web page of the history there, on loopback only.")
@click.option("--strict", is_flag=True, help="Serve nothing where one of the volumes cannot be opened.")
def serve(state: State, paths: tuple[str, ...], read_only: bool, replace: bool, force: bool, strict: bool,
          timeline: str | None) -> None:
    """Serve volumes over NBD.

    The exports of a volume NAME (the last part of its path): NAME, the volume; NAME@POINT, any past moment of it,
    read-only; NAME/IMAGE, a writable image; NAME/IMAGE@POINT.

    Each volume is served as soon as it is open; who asks for one before waits for some seconds. When the last one is
    open, it prints the URI of every export on standard output, then "ready" on standard error, and says so to systemd.
    It runs until SIGTERM, SIGINT or SIGHUP; a second one ends it at once. A kill loses nothing that a client flushed.

    A volume that cannot be opened does not stop the others: that is logged, 'cdp list' shows it, and the exit status
    will say it. Where none can be opened, and with --strict, it ends with the error.

    The URL of an archive is served as if the volume were here, to read: only what clients read is fetched, through a
    temporary folder ($TMPDIR).

    With --timeline it offers a page for a browser: what was done when, what a moment is, its files, what differs
    between two, and bookmarks, images, restores and undo. Its address is printed after the exports; who has it, with
    its token, may do all that. Port 0 lets the system choose. Under systemd, where what is printed goes to the journal,
    the token is not printed: the address is in a file that only this user can read, beside the administration socket.

    With --replace it takes listeners and connections over from the running server of the same volumes, which then ends:
    clients, a mounted file system for instance, wait for a moment and notice nothing else. Where that fails, the
    running server goes on. Settings are this command's; addresses stay. To survive a crash: 'cdp ha serve'.
    """
    from cdp.archive.places import is_url
    from cdp.cli.archived import at_hand
    from cdp.serve.server import Server
    from cdp.store.memory import map_large_blocks

    if force and not replace:
        raise click.UsageError("--force is said with --replace")
    address = None
    if timeline is not None:
        from cdp.serve.timeline.address import check_address

        address = check_address(timeline)
    map_large_blocks()
    if (urls := [path for path in paths if is_url(path)]) and replace:
        raise InvalidRequest(f"{urls[0]}: an archive is not taken over from another server", "leave off --replace")
    paths = tuple(at_hand(path, "serve").root if path in urls else path for path in paths)
    with Server(paths, state.settings, read_only=read_only, replace=replace, force=force,
                strict=strict or replace, timeline=address) as server:
        page, kept = server.timeline_url(), server.timeline_file()
        shown = f"{page} (with its token: in {kept})" if kept else page
        announce(state, () if state.as_json else (*server.uris(), *([shown] if shown else [])), server.view())
        server.wait()

"""standby: a second copy of a served volume on another host, kept up to date; and what becomes of it."""
import os
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.refs import volume_only
from cdp.text.paths import absolute
from cdp.text.sizes import approx_size
from cdpcore.base.errors import InvalidRequest


@command(cli, "standby", setting_flags=ENGINE_KEYS, quiet=False, examples=[
    ("cdp standby web --of db1", "of the volume web that db1 serves with --standby-listen, into the folder web here"),
    ("cdp standby web --of tls://db1 --tls-certificates /etc/pki/cdp", "the same over TLS"),
    ("cdp standby web --promote", "the first host is lost: the copy is the volume from now on"),
    ("cdp standby web --detach", "on the first host: forget the standby"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--of", "source", metavar="ADDRESS",
              help="HOST[:PORT], tls://HOST[:PORT] or unix:PATH of the server that has the volume.")
@click.option("--name", metavar="NAME", help="The volume's name there.  [default: that of the folder]")
@click.option("--tls-certificates", metavar="FOLDER", help="With tls://: ca-cert.pem, and client-cert.pem with "
              "client-key.pem where the server asks for them.  [default: the system's authorities]")
@click.option("--once", is_flag=True, help="Bring the copy up to date, and end.")
@click.option("--promote", is_flag=True, help="Make the copy the volume; the host that had it must not serve it.")
@click.option("--detach", is_flag=True, help="Of the volume itself: it has no standby from now on.")
def standby(state: State, volume: str, source: str | None, name: str | None, tls_certificates: str | None, once: bool,
            promote: bool, detach: bool) -> None:
    """Keep a second copy of a served volume on this host.

    VOLUME is a folder here, new or of such a copy. It gets the log of the volume byte by byte, what is there and then
    what comes, within moments of its being durable there: every moment, with its time. A connection that breaks is made
    again, and nothing is sent twice. Runs until SIGTERM or SIGINT.

    The copy is asynchronous: what was written in the last moments before the other host was lost may be missing. 'cdp
    info' and 'cdp status' there show the lag. Nobody else can open the copy until it is promoted.

    Nothing here can know that the other host is lost and not just out of reach. Make sure that it does not serve the
    volume before you promote the copy. See docs/standby.md.
    """
    if sum((source is not None, promote, detach)) != 1:
        raise InvalidRequest("one of --of, --promote and --detach is needed",
                             f"write 'cdp standby {quote(volume)} --of HOST' to keep a copy of what HOST serves")
    if source is None and (name or tls_certificates is not None or once):
        raise InvalidRequest("--name, --tls-certificates and --once are said with --of", "leave them off")
    if promote:
        _promote(state, volume)
    elif detach:
        _detach(state, volume)
    else:
        assert source is not None
        _follow(state, volume, source, name, tls_certificates, once)


def _follow(state: State, volume: str, source: str, name: str | None, certificates: str | None, once: bool) -> None:
    from cdp.ipc.stop_signals import stop_on_signal
    from cdp.standby.receiver import Receiver, Source

    folder = absolute(volume)
    receiver = Receiver(folder, Source.parse(source, certificates), name or os.path.basename(folder), state.settings)
    with stop_on_signal(receiver.stop):
        receiver.run(lambda: once, note)
    segment, _, seq = receiver.position
    emit(state, {"path": folder, "seq": seq, "segment": segment, "received_bytes": receiver.received_bytes},
         [f"{volume}: a copy up to #{seq}", f"  received  {approx_size(receiver.received_bytes)}"])


def _promote(state: State, volume: str) -> None:
    from cdp.standby.receiver import promote

    done = promote(absolute(volume), state.settings)
    emit(state, done, [f"{volume}: a volume of its own, up to #{done['seq']}",
                       f"  epoch  {done['epoch']}"])
    note(f"to serve it: cdp serve {quote(volume)}; {done['source']} must not serve it any more")


def _detach(state: State, volume: str) -> None:
    location = volume_only(volume, "standby")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        done = service.detach_standby()
    emit(state, done, [f"{volume}: has no standby" + (" any more" if done["id"] else "")])

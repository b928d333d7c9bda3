"""list: all volumes that are served."""

from cdp.cli import cli, exits
from cdp.cli.base import State, command, emit, table
from cdp.text.sizes import approx_size


@command(cli, "list", examples=[
    ("cdp list", "every volume that a server of this user has, with its sockets"),
    ("cdp list --json | jq -r '.[].uris[]'", "the URIs of all of them"),
], exit_codes=[exits.OK, exits.USAGE, exits.UNAVAILABLE])
def list_(state: State) -> None:
    """List the volumes that are served.

    Of this user, by 'cdp serve', 'cdp ha serve', 'cdp capture' and 'cdp tsd': what each does, how many clients are
    connected, and where it is reached. A server that does not answer, because it is stopped or stuck, is listed too.
    """
    from cdp.serve.addresses import runtime_directory
    from cdp.service.servers import served_volumes

    found = served_volumes(runtime_directory())
    rows = [[view["path"] or "?", view["state"], str(view["pid"] or "?"),
             "?" if view["size_bytes"] is None else approx_size(view["size_bytes"]),
             "?" if view["clients"] is None else str(view["clients"]),
             " ".join(view["uris"]) or view["admin_socket"]] for view in found]
    emit(state, found, table(["VOLUME", "STATE", "PROCESS", "SIZE", "CLIENTS", "WHERE"], rows) if found else
         "nothing is served")

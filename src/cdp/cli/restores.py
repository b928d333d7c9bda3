"""restores: the restores and undos there were."""
import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, table
from cdp.cli.refs import volume_only
from cdp.text.timestamps import local_utc_and_age


@command(cli, "restores", examples=[("cdp restores web", "all restores, oldest first")], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def restores(state: State, volume: str) -> None:
    """List past restores and undos."""
    location = volume_only(volume, "restores")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.restores()
        size_bytes = service.info()["size_bytes"]
    rows = []
    for one in got:
        what = f"undo of #{one['undo_of']}" if one["undo_of"] is not None else "restore"
        whole = one["offset"] == 0 and one["length"] == size_bytes
        rows.append((f"#{one['seq']}", local_utc_and_age(one["ts_ns"]),
                     what + (", destructive" if one["destructive"] else ""),
                     f"#{one['target']['seq']}", "all" if whole else f"{one['offset']}:{one['length']}",
                     "yes" if one["undoable"] else "no"))
    emit(state, got, table(("SEQ", "WHEN", "WHAT", "TO", "RANGE", "CAN BE UNDONE"), rows) if got else
         f"{volume}: no restores")

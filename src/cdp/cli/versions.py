"""versions: the versions of a file."""
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, note
from cdp.cli.files import partition_option
from cdp.cli.output import put
from cdp.cli.refs import volume_only
from cdp.service.files_at import entry_view
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local
from cdp.views import MAX_PAGE_RECORDS, Service

if TYPE_CHECKING:
    from cdp.files.versions import Version


@command(cli, "versions", examples=[
    ("cdp versions web /etc/hosts", "every version of the file, oldest first"),
    ("cdp versions web /srv/db.tar --since -1d --json", "of the last day; one JSON object a line"),
], exit_codes=POINT_EXITS)
@click.argument("volume")
@click.argument("path")
@click.option("--since", metavar="POINT", help="From this moment on; default: the oldest.")
@click.option("--until", metavar="POINT", default="now", help="Up to this moment; default: now.")
@partition_option
def versions(state: State, volume: str, path: str, since: str | None, until: str, partition: int | None) -> None:
    """List the versions of a file, oldest first.

    A version lasts from the moment from which the file system shows a file at PATH with its size, times and inode to
    the last such moment; --json has both, and lines for when there was no such file. DATA counts the records that wrote
    to the blocks of its data in that time: they came before the file system knew (or never: then something else wrote
    there, and the file may be damaged). Only the moments are looked at at which something changed that the answer
    depends on; the index finds them. Of ext2, ext3 and ext4; see 'cdp files --help'. With --json the result is one
    object a line.
    """
    location = volume_only(volume, "versions")
    from cdp.files.versions import versions as found_versions
    from cdp.service.connect import connect
    from cdp.service.local import VolumeService

    with connect(location, state.settings) as service, ExitStack() as images:
        first = service.explain(since)["resolved"] if since else service.window()["oldest"]
        last = service.explain(until)["resolved"]

        def read_at(seq: int) -> Any:
            if isinstance(service, VolumeService):      # a third of the time would go into finding the moment again
                images.close()
                return images.enter_context(service.volume.at(f"#{seq}")).pread
            return lambda length, offset: service.read(offset, length, at=f"#{seq}!")

        thinned = service.window()["thinned"]

        def shown_at(seq: int) -> int:
            if thinned is None or not thinned["first"]["seq"] < seq < thinned["last"]["seq"]:
                return seq
            got = service.explain(f"#{seq}")
            return got["next"]["seq"] if got["not_kept"] is not None and got["next"] is not None else seq

        def rows(offset: int, length: int, after: int, limit: int) -> list[tuple[int, int, int]]:
            page = service.versions(offset, length, f"#{after}", f"#{last['seq']}", limit)["versions"]
            return [(row["seq"], row["offset"], row["length"]) for row in page]

        head, count = True, 0
        for one in found_versions(read_at, service.info()["size_bytes"], partition, path, first["seq"], last["seq"],
                                  rows, shown_at):
            view = _view(service, one)
            count += one.entry is not None
            if state.as_json:
                put(json.dumps(view))
            elif one.entry is not None:
                if head:
                    put(f"{'FIRST':<10}  {'LAST':<10}  {'FROM':<35}  {'SIZE':>10}  {'MODIFIED':<35}  DATA")
                head = False
                put(_line(view))
    if not count and not state.as_json:
        note(f"{path}: no version" + (f" ({one.why})" if one.why else ""))


def _view(service: Service, one: "Version") -> dict[str, Any]:
    first, last = (service.explain(f"#{seq}")["resolved"] for seq in (one.first, one.last))
    seqs: set[int] = set()
    for offset, length in one.pieces if one.first < one.last else ():
        page = service.versions(offset, length, f"#{one.first}", f"#{one.last}", MAX_PAGE_RECORDS)["versions"]
        seqs.update(version["seq"] for version in page)
    return {"first": first, "last": last, "file": None if one.entry is None else entry_view(one.entry),
            "why": one.why or None, "data_changes": len(seqs), "data_first": min(seqs, default=None),
            "data_last": max(seqs, default=None)}


def _line(view: dict[str, Any]) -> str:
    first, last, file = view["first"], view["last"], view["file"]
    data = f"{view['data_changes']}, #{view['data_first']} to #{view['data_last']}" if view["data_changes"] else "0"
    return (f"#{first['seq']:<9}  #{last['seq']:<9}  {local(first['ts_ns']):<35}  "
            f"{approx_size(file['size_bytes']):>10}  {local(file['mtime_ns']):<35}  {data}")

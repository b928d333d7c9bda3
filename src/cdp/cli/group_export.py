"""export of a group: one moment of all its volumes, as a folder of disk images."""
from __future__ import annotations

import os
from shlex import quote

from cdp.cli.base import State, emit
from cdp.cli.export import check_out, output, write_image
from cdp.cli.group import open_group
from cdp.cli.group_output import moment_view
from cdp.cli.progress import Progress
from cdp.cli.refs import Ref
from cdp.text.sizes import approx_size
from cdpcore.base.errors import InvalidRequest, NotFound


def export_group(state: State, ref: Ref, folder: str, force: bool) -> None:
    """Each volume NAME of the group as the raw, sparse file FOLDER/NAME.img."""
    if not os.path.isdir(folder):
        raise NotFound(f"{folder}: no such folder", f"a group goes to a folder: mkdir -p {quote(folder)}")
    with open_group(ref.volume, state) as group:
        outs = [os.path.join(folder, f"{os.path.basename(path)}.img") for path in group.members]
        if len(set(outs)) < len(outs):
            raise InvalidRequest(f"{ref.volume}: two volumes of one name", "export them one by one")
        for out in outs:
            check_out(out, force)
        moment = group.moment(ref.point or "now")
        lines, written = [], []
        for service, out, at in zip(group.services(), outs, moment.at, strict=True):
            info = service.info()
            size_bytes = info["size_bytes"]
            with (output(out, info) as real,
                  Progress(f"exporting {info['name']}", total=size_bytes, quiet=state.as_json) as progress):
                write_image(service, size_bytes, f"#{at.seq}!", real, "raw", progress, None)
            lines.append(f"{out}: {approx_size(size_bytes)}, {info['name']} as of #{at.seq}")
            written.append({"out": out, "size_bytes": size_bytes})
        emit(state, {**moment_view(group, moment), "files": written}, lines)

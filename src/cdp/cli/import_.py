"""import: a raw disk image into a volume."""
import os
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.create import new_volume_path
from cdp.cli.progress import Progress
from cdp.cli.refs import split
from cdp.store.image_formats import CONTAINERS, look, require_raw, unpack_command
from cdp.text.sizes import approx_size
from cdpcore.base.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cdp.cli.transfer import Content
    from cdp.service.local import VolumeService
    from cdp.views import InfoView


@command(cli, "import", setting_flags=ENGINE_KEYS, examples=[
    ("cdp import disk.img web", "a new volume web with the content of the file as its base"),
    ("cdp import /dev/vdb web", "the same from a device (which nobody writes to meanwhile)"),
    ("cdp import --format qcow2 vm.qcow2 web", "what a guest sees of a qcow2 image, through qemu-nbd"),
    ("cdp import disk2.img web", "over an existing volume, as ordinary writes: the old content stays in the history"),
], exit_codes=WRITE_EXITS)
@click.argument("file")
@click.argument("volume")
@click.option("--format", "image_format", type=click.Choice(["raw", "auto", *CONTAINERS]),
              help="What FILE is: raw, its own bytes are meant; else it is converted by qemu-nbd. auto: as it looks.")
def import_(state: State, file: str, volume: str, image_format: str | None) -> None:
    """Copy a raw disk image into a volume.

    FILE is a file or a block device. A volume that does not exist is made, with the content as its base. Of a
    qcow2 image or another container, what a guest sees is imported, with --format and QEMU's tools; without, it is
    refused.
    """
    if file == "-":
        raise InvalidRequest("import cannot read standard input",
                             "it must know the size first: write a file, then import that")
    with _opened(file, volume, image_format) as source:
        if source.file_bytes == 0:
            raise InvalidRequest(f"{file} is empty", "give a raw disk image")
        if source.size_bytes != source.file_bytes:
            note(f"{file} ends within a sector: {source.size_bytes - source.file_bytes} zero bytes are added")
        # One character decides between "make it" and "into it": the path exists or not.
        if os.path.lexists(split(volume).volume) or _is_image(volume):
            _import_existing(state, source, volume)
        else:
            _import_new(state, source, volume)


def _opened(file: str, volume: str, image_format: str | None) -> "Content":
    """The content of FILE. Raises InvalidRequest where it is not of the format that was given, or meant."""
    from cdp.cli.transfer import Source

    source = Source(file)
    try:
        found = look(source.pread, source.file_bytes)
        if image_format in (None, "raw") or image_format == "auto" and (found is None or not found.container):
            hint = ""
            if found and found.name in CONTAINERS:
                hint = f"convert it: cdp import --format {found.name} {quote(file)} {quote(volume)}, " \
                       f"or {unpack_command(found, file)}"
            require_raw(file, source.pread, source.file_bytes, "raw" if image_format == "raw" else None, hint)
            return source
        if found and found.container and image_format not in (found.name, "auto"):
            raise InvalidRequest(f"{file} is {found.title}, not {CONTAINERS[str(image_format)].title}",
                                 f"say --format {found.name}" if found.name in CONTAINERS else
                                 f"unpack it: {unpack_command(found, file)}")
        if found and found.name not in CONTAINERS:
            raise InvalidRequest(f"{file} is {found.title}", f"unpack it: {unpack_command(found, file)}")
    except BaseException:
        source.close()
        raise
    source.close()
    from cdp.cli.conversion import Converted

    return Converted(file, found.name if found and image_format == "auto" else str(image_format), volume)


def _is_image(volume: str) -> bool:
    from cdp.service.locate import locate

    try:
        return bool(locate(split(volume).volume).images)
    except (NotFound, InvalidRequest):
        return False


def _import_new(state: State, source: "Content", volume: str) -> None:
    path = new_volume_path(volume)
    import cdp
    from cdp.service.local import VolumeService
    from cdp.store.base_image import Base

    with Progress(f"importing {source.path}", total=source.size_bytes, quiet=state.as_json) as progress:
        made = cdp.create(path, size=source.size_bytes, settings=state.settings,
                          base=Base(source.read_into, source.nonzero(progress.at), image_format="raw"))
    with made:
        info = VolumeService(made).info()
    emit(state, {"volume": volume, "new": True, "bytes": source.size_bytes, "before": None, "info": info},
         [f"{volume}: a new volume of {approx_size(source.size_bytes)} with the content of {source.path}",
          f"  serve it:  cdp serve {quote(volume)}"])


def _import_existing(state: State, source: "Content", volume: str) -> None:
    from cdp.cli.transfer import import_over
    from cdp.service import local as services
    from cdp.service.connect import connect
    from cdp.service.locate import locate

    ref = split(volume)
    if ref.point is not None:
        raise InvalidRequest("'cdp import' writes to a volume, not to a point",
                             f"make an image of it first: cdp image create {quote(volume)} NAME")
    with connect(locate(ref.volume), state.settings) as service:
        info = service.info()
        if source.size_bytes > info["size_bytes"]:
            raise InvalidRequest(f"{source.path} has {source.size_bytes} bytes, {volume} has {info['size_bytes']}",
                                 "import into a new volume")
        if isinstance(service, services.VolumeService) and _is_untouched(service, info):
            # Nothing was ever written: the content becomes the base, without a history and without passing the log.
            with Progress(f"importing {source.path}", total=source.size_bytes, quiet=state.as_json) as progress:
                service.volume.import_base(source.read_into, source.nonzero(progress.at), image_format="raw")
            result = {"volume": volume, "new": False, "bytes": source.size_bytes, "before": None,
                      "info": service.info()}
            emit(state, result,
                 f"{volume}: begins with the content of {source.path}")
            return
        before = info["window"]["newest"]
        with Progress(f"importing {source.path}", total=source.size_bytes, quiet=state.as_json) as progress:
            import_over(source, service, progress.at)
        after = service.info()
    if source.size_bytes < info["size_bytes"]:
        rest_bytes = info["size_bytes"] - source.size_bytes
        note(f"{volume} is larger than {source.path}: its last {rest_bytes} bytes stay as they were")
    emit(state, {"volume": volume, "new": False, "bytes": source.size_bytes, "before": before, "info": after},
         f"{volume}: the first {approx_size(source.size_bytes)} are now the content of {source.path}")
    at = f"@#{before['seq']}"
    note(f"to take this back: cdp restore {quote(volume + at)}")


def _is_untouched(service: "VolumeService", info: "InfoView") -> bool:
    """Whether a volume has no record, no base and no parent."""
    return info["window"]["newest"]["seq"] == 0 and service.volume.geometry().base == "none"

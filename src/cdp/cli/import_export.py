"""export and import: raw disk images out of and into a volume."""
import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.create_info import new_volume_path
from cdp.cli.output import standard_output
from cdp.cli.progress import Progress
from cdp.cli.refs import split, volume_and_point
from cdp.service.locate import is_volume
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local_utc_and_age
from cdpcore.base.errors import InvalidRequest, NotFound, OutOfSpace

if TYPE_CHECKING:
    from cdp.cli.transfer import Source
    from cdp.service.local import VolumeService
    from cdp.views import InfoView, Service


@command(cli, "export", examples=[
    ("cdp export web@-10m web.img", "the disk as of ten minutes ago, as a sparse raw file"),
    ("cdp export web - | zstd > web.img.zst", "now, to standard output"),
    ("cdp export web@before-upgrade /dev/vdb --force", "onto a device, over what is there"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME[@POINT]")
@click.argument("out")
@click.option("--force", is_flag=True, help="Write over an existing file or a device.")
def export(state: State, volume: str, out: str, force: bool) -> None:
    """Write a moment out as a raw disk image.

    Without @POINT: of now. A file is written sparse; OUT - is standard output.
    """
    location, point = volume_and_point(volume, "export", default="now")
    if out == "-" and state.as_json:
        raise InvalidRequest("standard output takes either the disk or the JSON",
                             "give a file name, or leave off --json")
    if out == "-":
        standard_output()
    if out == "-" and sys.stdout.isatty():
        raise InvalidRequest("standard output is a terminal", f"write to a file or a pipe: cdp export {volume} - | ...")
    _check_out(out, force)
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        explained = service.explain(point)
        size_bytes = service.info()["size_bytes"]
        at = f"#{explained['resolved']['seq']}"
        with Progress(f"exporting {volume}", total=size_bytes, quiet=state.as_json) as progress:
            _export(service, size_bytes, at, out, progress)
    result = {"out": out, "size_bytes": size_bytes, "explanation": explained}
    if out == "-":
        return
    emit(state, result, f"{out}: {approx_size(size_bytes)}, {volume} as of #{explained['resolved']['seq']}, "
         f"{local_utc_and_age(explained['resolved']['ts_ns'])}")


def _check_out(out: str, force: bool) -> None:
    if out == "-":
        return
    if os.path.isdir(out):
        raise InvalidRequest(f"{out} is a directory", f"name a file: {os.path.join(out, 'disk.img')}")
    if os.path.lexists(out) and not force:
        raise InvalidRequest(f"{out} exists", "take another name, or add --force to write over it")
    parent = os.path.dirname(out) or "."
    if not os.path.isdir(parent):
        raise NotFound(f"{parent}: no such directory", f"make it first: mkdir -p {parent}")
    inside = os.path.realpath(out)
    while inside != os.path.dirname(inside):
        inside = os.path.dirname(inside)
        if is_volume(inside):
            raise InvalidRequest(f"{out} lies in the volume {inside}, whose files are its own", "write to a place outside of it")


def _export(service: "Service", size_bytes: int, at: str, out: str, progress: Progress) -> None:
    from cdp.cli.transfer import export_file, export_stream

    if out == "-":
        sys.stdout.flush()
        export_stream(service, size_bytes, at, standard_output().write, progress.at)
        return
    if os.path.lexists(out) and not stat.S_ISREG(os.stat(out).st_mode):
        _export_device(service, size_bytes, at, out, progress)
        return
    # Under another name until it is whole, so that a failure leaves what was there.
    part = f"{out}.part-{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            os.ftruncate(fd, size_bytes)
            export_file(service, size_bytes, at, fd, progress.at)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(part, out)
    except BaseException:
        os.unlink(part)
        raise


def _export_device(service: "Service", size_bytes: int, at: str, out: str, progress: Progress) -> None:
    from cdp.cli.transfer import export_stream

    fd = os.open(out, os.O_WRONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "wb", buffering=0) as device:
        is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
        if is_block:
            room_bytes = os.lseek(fd, 0, os.SEEK_END)
            os.lseek(fd, 0, os.SEEK_SET)
            if room_bytes < size_bytes:
                raise OutOfSpace(f"{out} has {room_bytes} bytes, {size_bytes} are needed", "take a larger device")

        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[device.write(view) :]

        export_stream(service, size_bytes, at, write, progress.at)  # zeros too: a device has old content
        if is_block:
            os.fsync(fd)


@command(cli, "import", setting_flags=ENGINE_KEYS, examples=[
    ("cdp import disk.img web", "a new volume web with the content of the file as its base"),
    ("cdp import /dev/vdb web", "the same from a device (which nobody writes to meanwhile)"),
    ("cdp import disk2.img web", "over an existing volume, as ordinary writes: the old content stays in the history"),
], exit_codes=WRITE_EXITS)
@click.argument("file")
@click.argument("volume")
def import_(state: State, file: str, volume: str) -> None:
    """Copy a raw disk image into a volume.

    FILE is a file or a block device. A volume that does not exist is made, with the content as its base.
    """
    from cdp.cli.transfer import Source

    if file == "-":
        raise InvalidRequest("import cannot read standard input",
                             "it must know the size first: write a file, then import that")
    with Source(file) as source:
        if source.file_bytes == 0:
            raise InvalidRequest(f"{file} is empty", "give a raw disk image")
        if source.size_bytes != source.file_bytes:
            note(f"{file} ends within a sector: {source.size_bytes - source.file_bytes} zero bytes are added")
        # One character decides between "make it" and "into it": the path exists or not.
        if os.path.lexists(split(volume).volume) or _is_image(volume):
            _import_existing(state, source, volume)
        else:
            _import_new(state, source, volume)


def _is_image(volume: str) -> bool:
    from cdp.service.locate import locate

    try:
        return bool(locate(split(volume).volume).images)
    except (NotFound, InvalidRequest):
        return False


def _import_new(state: State, source: "Source", volume: str) -> None:
    path = new_volume_path(volume)
    import cdp
    from cdp.service.local import VolumeService
    from cdp.store.base_image import Base

    with Progress(f"importing {source.path}", total=source.size_bytes, quiet=state.as_json) as progress:
        made = cdp.create(path, size=source.size_bytes, settings=state.settings,
                          base=Base(source.read_into, source.nonzero(progress.at)))
    with made:
        info = VolumeService(made).info()
    emit(state, {"volume": volume, "new": True, "bytes": source.size_bytes, "before": None, "info": info},
         [f"{volume}: a new volume of {approx_size(source.size_bytes)} with the content of {source.path}",
          f"  serve it:  cdp serve {volume}"])


def _import_existing(state: State, source: "Source", volume: str) -> None:
    from cdp.cli.transfer import import_over
    from cdp.service import local as services
    from cdp.service.connect import connect
    from cdp.service.locate import locate

    ref = split(volume)
    if ref.point is not None:
        raise InvalidRequest("'cdp import' writes to a volume, not to a point",
                             f"make an image of it first: cdp image create {volume} NAME")
    with connect(locate(ref.volume), state.settings) as service:
        info = service.info()
        if source.size_bytes > info["size_bytes"]:
            raise InvalidRequest(f"{source.path} has {source.size_bytes} bytes, {volume} has {info['size_bytes']}",
                                 "import into a new volume")
        if isinstance(service, services.VolumeService) and _is_untouched(service, info):
            # Nothing was ever written: the content becomes the base, without a history and without passing the log.
            with Progress(f"importing {source.path}", total=source.size_bytes, quiet=state.as_json) as progress:
                service.volume.import_base(source.read_into, source.nonzero(progress.at))
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
    note(f"to take this back: cdp restore '{volume}@#{before['seq']}'")


def _is_untouched(service: "VolumeService", info: "InfoView") -> bool:
    """Whether a volume has no record, no base and no parent."""
    return info["window"]["newest"]["seq"] == 0 and service.volume.geometry().base == "none"

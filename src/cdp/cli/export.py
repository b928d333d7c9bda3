"""export: a moment of a volume as a disk image, or what changed as a delta."""
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, note
from cdp.cli.output import standard_output
from cdp.cli.progress import Progress
from cdp.cli.refs import group_at, volume_and_point, with_point
from cdp.store.image_formats import CONTAINERS
from cdp.store.output_files import check_outside, output_file
from cdp.store.volume_files import VolumeFiles
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local_utc_and_age
from cdpcore.base.errors import InvalidRequest, NotFound, OutOfSpace, RefusedPoint

if TYPE_CHECKING:
    from cdp.views import ExplanationView, InfoView, Service


NAMES = {".qcow2": "qcow2", ".qcow": "qcow", ".qed": "qed", ".vmdk": "vmdk", ".vdi": "vdi", ".vhd": "vpc",
         ".vpc": "vpc", ".vhdx": "vhdx", ".hdd": "parallels", ".hds": "parallels"}      # by the ends of file names


@command(cli, "export", examples=[
    ("cdp export web@-10m web.img", "the disk as of ten minutes ago, as a sparse raw file"),
    ("cdp export web - | zstd > web.img.zst", "now, to standard output"),
    ("cdp export web@-1d web.qcow2", "yesterday's disk as a qcow2 image, through qemu-img"),
    ("cdp export web@before-upgrade /dev/vdb --force", "onto a device, over what is there"),
    ("cdp export s3://backups/web@-1d web.img", "a moment that is in an archive"),
    ("cdp export web@tue tue.delta --since mon", "a delta: what changed, for 'cdp import --delta'"),
    ("cdp export shop@before-upgrade disks", "all volumes of the group shop, into the folder disks"),
    ("cdp export web@mon - --delta | ssh host cdp import --delta - copy", "all of it, to begin a copy with"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME[@POINT]|URL[@POINT]")
@click.argument("out")
@click.option("--force", is_flag=True, help="Write over an existing file or a device.")
@click.option("--format", "image_format", type=click.Choice(["raw", *CONTAINERS]),
              help="What OUT becomes: a raw disk, or, by qemu-img, a file of another format. Without: what OUT's name "
                   "says (.qcow2, .vmdk, .vdi, .vhd, .vhdx ...), else raw.")
@click.option("--skip-unknown", is_flag=True,
              help="Of a disk that was changed outside and adopted: what is not known reads as zeros, and is listed.")
@click.option("--delta", is_flag=True, help="A delta, for 'cdp import --delta'; without --since, of the whole disk.")
@click.option("--since", metavar="POINT", help="A delta of what changed since this moment.")
def export(state: State, volume: str, out: str, force: bool, image_format: str | None, skip_unknown: bool, delta: bool,
           since: str | None) -> None:
    """Write out a moment as a disk image, or a delta.

    Without @POINT: of now. A raw disk, unless --format or the end of OUT's name says more. A file is written sparse;
    OUT - is standard output. A symbolic link is followed, to a file as to a device: the link stays. What a volume that
    is open has as its disk or base is never written to. Of the URL of an archive only what is exported is fetched,
    through a temporary folder ($TMPDIR). Of a group OUT is a folder, which gets a file for each volume, of one moment.
    A delta has the ranges whose content differs (see 'cdp diff'), and checksums of what they held before, so that it is
    imported only where it belongs.
    """
    delta = delta or since is not None
    if delta and image_format not in (None, "raw"):
        raise InvalidRequest("a delta has a format of its own", "leave off --format")
    from cdp.archive.places import is_url

    if not is_url(volume) and (group := group_at(volume)):
        if delta or image_format not in (None, "raw") or skip_unknown:
            raise InvalidRequest("of a group raw disks are exported", "leave off --format, --delta and --skip-unknown")
        from cdp.cli.group_export import export_group

        export_group(state, with_point(group, "export", "now"), out, force)
        return
    here = None if is_url(volume) else volume_and_point(volume, "export", default="now")
    if out == "-" and state.as_json:
        raise InvalidRequest("standard output takes either the disk or the JSON",
                             "give a file name, or leave off --json")
    if image_format is None:
        image_format = "raw" if delta else _format_by_name(out)
    if image_format != "raw" and skip_unknown:
        raise InvalidRequest("what is not known can be left out of a raw disk only", "leave off --format")
    if image_format != "raw" and (out == "-" or os.path.exists(out) and not os.path.isfile(out)):
        raise InvalidRequest(f"{out} takes a raw disk only", f"give a file name to write {image_format} to")
    if out == "-":
        standard_output()
    if out == "-" and sys.stdout.isatty():
        raise InvalidRequest("standard output is a terminal",
                             f"write to a file or a pipe: cdp export {quote(volume)} - | ...")
    check_out(out, force)
    # An archive is opened when nothing else is wrong.
    location, point = here or volume_and_point(volume, "export", default="now")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        explained = service.explain(point)
        info = service.info()
        if delta:
            _export_delta(state, service, volume, out, info, explained, since)
            return
        size_bytes = info["size_bytes"]
        at = f"#{explained['resolved']['seq']}!"
        skipped: list[tuple[int, int]] | None = [] if skip_unknown else None
        with (output(out, info) as real,
              Progress(f"exporting {volume}", total=size_bytes, quiet=state.as_json) as progress):
            write_image(service, size_bytes, at, real, image_format, progress, skipped)
    result: dict[str, object] = {"out": out, "size_bytes": size_bytes, "explanation": explained}
    if skipped is not None:
        result["skipped"] = [{"offset": offset, "length": length} for offset, length in skipped]
        for offset, length in skipped:
            note(f"not known, zeros instead: bytes {offset} to {offset + length - 1}")
    if out == "-":
        return
    emit(state, result, f"{out}: {approx_size(size_bytes)}, {volume} as of #{explained['resolved']['seq']}, "
         f"{local_utc_and_age(explained['resolved']['ts_ns'])}")


def _export_delta(state: State, service: "Service", volume: str, out: str, info: "InfoView",
                  explained: "ExplanationView", since: str | None) -> None:
    from cdp.cli.delta import export_delta, header_of

    named = service.explain(since) if since is not None else None
    if named is not None and (asked := named["not_kept"]) is not None:
        raise RefusedPoint(f"{volume}: #{asked['seq']} was thinned, so what changed since then is not known",
                           f"#{named['resolved']['seq']} is the kept moment before it; --delta exports all of it")
    first = named["resolved"] if named is not None else None
    header = header_of(info, first, explained["resolved"])
    with (output(out, info) as real,
          Progress(f"exporting {volume}", total=info["size_bytes"], quiet=state.as_json) as progress):
        if out == "-":
            sys.stdout.flush()
            export_delta(service, header, standard_output().write, progress.at)
            return
        if os.path.lexists(real) and not stat.S_ISREG(os.stat(real).st_mode):
            raise InvalidRequest(f"{out} is not a file", "a delta goes to a file or to standard output")
        with whole_file(real) as fd, os.fdopen(os.dup(fd), "wb") as file:
            pieces, changed, size = export_delta(service, header, file.write, progress.at)
    result = {"out": out, "since": first, "explanation": explained, "pieces": pieces, "changed_bytes": changed,
              "file_bytes": size}
    what = "from nothing" if first is None else f"since #{first['seq']}"
    emit(state, result, f"{out}: {approx_size(size)}, {volume} as of #{header.seq} {what}: {approx_size(changed)} "
         "changed")


def _format_by_name(out: str) -> str:
    """What somebody expects in a file of that name. A device, a pipe, or what is none of the known names: raw."""
    found = NAMES.get(os.path.splitext(out)[1].lower(), "raw")
    if found == "raw" or os.path.exists(out) and not os.path.isfile(out):
        return "raw"
    note(f"{out}: {CONTAINERS[found].title}, as its name says; --format raw writes a raw disk")
    return found


def check_out(out: str, force: bool) -> None:
    if out == "-":
        return
    if os.path.isdir(out):
        raise InvalidRequest(f"{out} is a folder", f"name a file: {os.path.join(out, 'disk.img')}")
    if os.path.lexists(out) and not force:
        raise InvalidRequest(f"{out} exists", "take another name, or add --force to write over it")
    parent = os.path.dirname(os.path.realpath(out) if os.path.islink(out) else out) or "."
    if not os.path.isdir(parent):
        raise NotFound(f"{parent}: no such folder", f"make it first: mkdir -p {quote(parent)}")
    check_outside(out)      # before the volume is opened


def output(out: str, info: "InfoView") -> AbstractContextManager[str]:
    """Where to write to: not onto this volume, nor onto one that is open."""
    if out == "-":
        return nullcontext(out)
    own = [info["disk"]] if info["disk"] else []
    return output_file(out, [*own, VolumeFiles(info["path"]).base])


def write_image(service: "Service", size_bytes: int, at: str, out: str, image_format: str, progress: Progress,
            skipped: list[tuple[int, int]] | None) -> None:
    from cdp.cli.transfer import export_file, export_stream

    if out == "-":
        sys.stdout.flush()
        export_stream(service, size_bytes, at, standard_output().write, progress.at, skipped)
        return
    if os.path.lexists(out) and not stat.S_ISREG(os.stat(out).st_mode):
        _export_device(service, size_bytes, at, out, progress, skipped)
        return
    if image_format != "raw":
        from cdp.cli.conversion import export_converted

        export_converted(service, size_bytes, at, out, image_format, progress.at)
        return
    with whole_file(out) as fd:
        os.ftruncate(fd, size_bytes)
        export_file(service, size_bytes, at, fd, progress.at, skipped)


@contextmanager
def whole_file(out: str) -> Iterator[int]:
    """A new file, open for writing: under another name until it is whole and durable, so that a failure leaves what was
    there."""
    part = f"{out}.part-{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(part, out)
    except BaseException as error:
        os.unlink(part)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = out
        raise


def _export_device(service: "Service", size_bytes: int, at: str, out: str, progress: Progress,
                   skipped: list[tuple[int, int]] | None) -> None:
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

        export_stream(service, size_bytes, at, write, progress.at, skipped)  # zeros too: a device has old content
        if is_block:
            os.fsync(fd)

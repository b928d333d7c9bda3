"""import: a raw disk image into a volume, or a delta."""
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.create import check_size, new_volume_path
from cdp.cli.progress import Progress
from cdp.cli.refs import split
from cdp.store.image_formats import CONTAINERS, look, require_raw, unpack_command
from cdp.text import sizes as units
from cdp.text.sizes import approx_size
from cdpcore.base.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cdp.cli.transfer import Content, Done
    from cdp.service.local import VolumeService
    from cdp.views import InfoView


@command(cli, "import", setting_flags=ENGINE_KEYS, examples=[
    ("cdp import disk.img web", "a new volume web with the content of the file as its base"),
    ("cdp import /dev/vdb web", "the same from a device (which nobody writes to meanwhile)"),
    ("ssh host dd if=/dev/vdb | cdp import - web --size 20G", "through a pipe; what is missing reads as zeros"),
    ("cdp import --format qcow2 vm.qcow2 web", "what a guest sees of a qcow2 image, through qemu-nbd"),
    ("cdp import --delta tue.delta copy", "what changed in the volume that 'copy' is a copy of"),
    ("cdp import disk2.img web", "over an existing volume, as ordinary writes: the old content stays in the history"),
], exit_codes=WRITE_EXITS)
@click.argument("file")
@click.argument("volume")
@click.option("--delta", is_flag=True, help="FILE is a delta, written by 'cdp export --since' or --delta.")
@click.option("--size", metavar="SIZE", help="Of a new volume: more than FILE has; the rest reads as zeros.")
@click.option("--format", "image_format", type=click.Choice(["raw", "auto", *CONTAINERS]),
              help="What FILE is: raw, its own bytes are meant; else it is converted by qemu-nbd. auto: as it looks.")
def import_(state: State, file: str, volume: str, size: str | None, image_format: str | None, delta: bool) -> None:
    """Copy a raw disk image into a volume, or apply a delta.

    FILE is a file or a block device, or - for standard input, which is read to its end. A volume that does not exist
    is made, with the content as its base. Of a qcow2 image or another container, what a guest sees is imported, with
    --format and QEMU's tools; without, it is refused. A delta is applied whole or not at all, to a copy that is at the
    moment it begins with: a bookmark, which each import of a delta makes, says so, and what it changes is compared
    before.
    """
    if delta:
        if size is not None or image_format is not None:
            raise InvalidRequest("a delta has a size and a format of its own", "leave off --size and --format")
        _import_delta(state, file, volume)
        return
    size_bytes = units.parse_size(size) if size is not None else None
    if size_bytes is not None:
        check_size(size_bytes)
    with _opened(file, volume, image_format) as source:
        if source.file_bytes == 0:
            raise InvalidRequest(f"{source.path} is empty", "give a raw disk image")
        # One character decides between "make it" and "into it": the path exists or not.
        if os.path.lexists(split(volume).volume) or _is_image(volume):
            if size_bytes is not None:
                raise InvalidRequest("--size is of a new volume", f"leave it out: {volume} exists")
            _import_existing(state, source, volume)
        else:
            _import_new(state, source, volume, size_bytes, image_format)


def _import_delta(state: State, file: str, volume: str) -> None:
    from cdp.cli.delta import import_delta
    from cdp.cli.delta_file import NOTHING, DeltaReader
    from cdp.service.connect import connect
    from cdp.service.locate import locate

    with ExitStack() as stack:
        source = stack.enter_context(open(file if file != "-" else 0, "rb", closefd=file != "-"))
        reader = DeltaReader(source, file)
        header, new = reader.header, not (os.path.lexists(split(volume).volume) or _is_image(volume))
        if new:
            if header.since_seq != NOTHING:
                raise NotFound(f"{volume}: no such volume, and {file} begins with #{header.since_seq} of another one",
                               "import first what was exported with --delta and without --since")
            import cdp

            cdp.create(new_volume_path(volume), size=header.size_bytes, settings=state.settings).close()
        ref = split(volume)
        if ref.point is not None:
            raise InvalidRequest("'cdp import' writes to a volume, not to a point", f"leave off @{ref.point}")
        service = stack.enter_context(connect(locate(ref.volume), state.settings))
        progress = stack.enter_context(Progress(f"importing {file}", total=header.size_bytes, quiet=state.as_json))
        before = service.info()["window"]["newest"]
        pieces, changed = import_delta(service, source, reader, volume, progress.at)
        info = service.info()
    emit(state, {"volume": volume, "new": new, "pieces": pieces, "changed_bytes": changed, "before": before,
                 "bookmark": header.bookmark(), "info": info},
         f"{volume}: now at #{header.seq} of its source: {approx_size(changed)} changed (@{header.bookmark()})")
    if not new:
        back = volume + "@#" + str(before["seq"])
        note(f"to take this back: cdp restore {quote(back)}")


def _opened(file: str, volume: str, image_format: str | None) -> "Content":
    """The content of FILE. Raises InvalidRequest where it is not of the format that was given, or meant."""
    from cdp.cli.transfer import Source

    source: Content = Source(file) if file != "-" else _standard_input()
    try:
        found = look(source.pread, source.file_bytes)
        if image_format in (None, "raw") or image_format == "auto" and (found is None or not found.container):
            hint = "" if file != "-" else "write it to a file, and import that with --format"
            if found and found.name in CONTAINERS and file != "-":
                hint = f"convert it: cdp import --format {found.name} {quote(file)} {quote(volume)}, " \
                       f"or {unpack_command(found, file)}"
            require_raw(source.path, source.pread, source.file_bytes, "raw" if image_format == "raw" else None, hint)
            return source
        if file == "-":
            raise InvalidRequest(f"--format {image_format} of standard input", "write it to a file, then import that")
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


def _standard_input() -> "Content":
    from cdp.cli.stream import Stream

    return Stream(0, "standard input")


def _is_image(volume: str) -> bool:
    from cdp.service.locate import locate

    try:
        return bool(locate(split(volume).volume).images)
    except (NotFound, InvalidRequest):
        return False


def _import_new(state: State, source: "Content", volume: str, size_bytes: int | None,
                image_format: str | None) -> None:
    path = new_volume_path(volume)
    import cdp
    from cdp.service.local import VolumeService
    from cdp.store.base_image import Base

    whole = _is_whole(source)
    size = size_bytes or (source.size_bytes if whole else None)
    if size is not None:
        _limit(source, size, f"--size is {size}")
    with _progress(state, source) as done:
        # Of a stream only the first piece was looked at: some containers are known by their end.
        made = cdp.create(path, size=size, settings=state.settings,
                          base=Base(source.read_into, source.nonzero(done), size_bytes=lambda: source.size_bytes,
                                    image_format="raw" if whole or image_format == "raw" else None))
    with made:
        info = VolumeService(made).info()
    _note_end(source)
    if source.size_bytes < info["size_bytes"]:
        note(f"{source.path} ended after {source.size_bytes} bytes: the last {info['size_bytes'] - source.size_bytes} "
             f"bytes of {volume} read as zeros")
    emit(state, {"volume": volume, "new": True, "bytes": source.size_bytes, "before": None, "info": info},
         [f"{volume}: a new volume of {approx_size(info['size_bytes'])} with the content of {source.path}",
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
        _limit(source, info["size_bytes"], f"{volume} has {info['size_bytes']}")
        if isinstance(service, services.VolumeService) and _is_untouched(service, info):
            # Nothing was ever written: the content becomes the base, without a history and without passing the log.
            with _progress(state, source) as done:
                service.volume.import_base(source.read_into, source.nonzero(done), image_format="raw")
            _note_end(source)
            result = {"volume": volume, "new": False, "bytes": source.size_bytes, "before": None,
                      "info": service.info()}
            emit(state, result,
                 f"{volume}: begins with the content of {source.path}")
            return
        before = info["window"]["newest"]
        at = f"@#{before['seq']}"
        back = f"to take this back: cdp restore {quote(volume + at)}"
        try:
            with _progress(state, source) as done:
                import_over(source, service, done)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, f"{error.hint}; what came first is in {volume}; {back}") from None
        after = service.info()
    _note_end(source)
    if source.size_bytes < info["size_bytes"]:
        rest_bytes = info["size_bytes"] - source.size_bytes
        note(f"{volume} is larger than {source.path}: its last {rest_bytes} bytes stay as they were")
    emit(state, {"volume": volume, "new": False, "bytes": source.size_bytes, "before": before, "info": after},
         f"{volume}: the first {approx_size(source.size_bytes)} are now the content of {source.path}")
    note(back)


def _is_whole(source: "Content") -> bool:
    """Whether its size is known before it was read."""
    from cdp.cli.stream import Stream

    return not isinstance(source, Stream)


def _limit(source: "Content", size_bytes: int, what: str) -> None:
    """Raises InvalidRequest where it has more bytes, of a stream later."""
    from cdp.cli.stream import Stream

    if isinstance(source, Stream):
        source.limit_bytes = size_bytes
    if source.size_bytes > size_bytes:
        raise InvalidRequest(f"{source.path} has {source.size_bytes} bytes{'' if _is_whole(source) else ' or more'}, "
                             f"{what}", "import into a new volume, or give a larger --size")


@contextmanager
def _progress(state: State, source: "Content") -> "Iterator[Done]":
    """To be called with the bytes that are done. The total of a stream is not known."""
    whole, began_s = _is_whole(source), time.monotonic()
    with Progress(f"importing {source.path}", total=source.size_bytes if whole else None,
                  quiet=state.as_json) as progress:
        def at(done: int) -> None:
            spent_s = time.monotonic() - began_s
            rate = f"{approx_size(int(done / spent_s))}/s" if spent_s else ""
            progress.at(done, text="" if whole else f"{approx_size(done)}  {rate}")

        yield at


def _note_end(source: "Content") -> None:
    if source.size_bytes != source.file_bytes:
        note(f"{source.path} ends within a sector: {source.size_bytes - source.file_bytes} zero bytes are added")


def _is_untouched(service: "VolumeService", info: "InfoView") -> bool:
    """Whether a volume has no record, no base and no parent."""
    return info["window"]["newest"]["seq"] == 0 and service.volume.geometry().base == "none"

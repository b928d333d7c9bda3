"""Disk images that are not raw, recognised by their first and last bytes.

A volume holds what a guest sees of a disk. In a container (qcow2, VMDK, ...) or a compressed file that is somewhere
else, so its bytes must not be taken for a raw disk by mistake. Sources: QEMU's docs/interop/qcow2.txt, the VHD, VHDX
and VMDK specifications, VirtualBox's VDI header, cryptsetup's LUKS1 and LUKS2 specifications.

Pure but for require_raw(), which logs. Any thread.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote

from cdpcore.base.errors import InvalidRequest

log = logging.getLogger("cdp.store")
RAW = "raw"
HEAD_BYTES = 4096
TAIL_BYTES = 512


@dataclass(frozen=True)
class ImageFormat:
    """One format. name: as users and QEMU's tools write it (`qemu-img -f`); title: in a message; container: the disk is
    inside it. False: the bytes are a disk's, whatever they mean (LUKS: encrypted, but each sector is the device's)."""

    name: str
    title: str
    container: bool = True


QCOW2 = ImageFormat("qcow2", "a qcow2 image")
QCOW = ImageFormat("qcow", "a qcow image")
QED = ImageFormat("qed", "a QED image")
VMDK = ImageFormat("vmdk", "a VMDK image")
VDI = ImageFormat("vdi", "a VDI image")
VHD = ImageFormat("vpc", "a VHD image")
VHDX = ImageFormat("vhdx", "a VHDX image")
PARALLELS = ImageFormat("parallels", "a Parallels image")
LUKS = ImageFormat("luks", "a LUKS device", container=False)
COMPRESSED = {
    b"\x1f\x8b\x08": ImageFormat("gzip", "a gzip file"),
    b"\xfd7zXZ\x00": ImageFormat("xz", "an xz file"),
    b"\x28\xb5\x2f\xfd": ImageFormat("zstd", "a zstd file"),
    b"BZh": ImageFormat("bzip2", "a bzip2 file"),
}
CONTAINERS = {f.name: f for f in (QCOW2, QCOW, QED, VMDK, VDI, VHD, VHDX, PARALLELS)}


def identify(head: bytes, tail: bytes) -> ImageFormat | None:
    """The format of an image by its first HEAD_BYTES and last TAIL_BYTES (fewer where it is shorter); None: raw."""
    if head[:4] == b"QFI\xfb":
        return QCOW if int.from_bytes(head[4:8], "big") == 1 else QCOW2
    if head[:4] == b"QED\0":
        return QED
    if head[:4] in (b"KDMV", b"COWD") or head[:512].lstrip().startswith(b"# Disk DescriptorFile"):
        return VMDK
    if head[64:68] == (0xBEDA107F).to_bytes(4, "little"):
        return VDI
    if head[:8] == b"vhdxfile":
        return VHDX
    # A dynamic VHD has a copy of its footer in front, a fixed one only the footer.
    if head[:8] == b"conectix" or tail[:8] == b"conectix":
        return VHD
    if head[:16] in (b"WithoutFreeSpace", b"WithouFreSpacExt"):
        return PARALLELS
    if head[:6] == b"LUKS\xba\xbe":
        return LUKS
    return next((f for magic, f in COMPRESSED.items() if head.startswith(magic) and _is_compressed(f, head)), None)


def _is_compressed(found: ImageFormat, head: bytes) -> bool:
    """Three bytes are too little to refuse a disk: of bzip2 the whole header counts, and a boot signature makes a raw
    disk."""
    if head[510:512] == b"\x55\xaa":
        return False
    return found.name != "bzip2" or (head[3:4] in b"123456789" and head[4:10] == b"1AY&SY")


def look(read: Callable[[int, int], bytes], size_bytes: int) -> ImageFormat | None:
    """identify() with read(length, offset), both in bytes, of an image of `size_bytes`."""
    head = read(min(HEAD_BYTES, size_bytes), 0)
    tail = read(min(TAIL_BYTES, size_bytes), max(0, size_bytes - TAIL_BYTES))
    return identify(head, tail)


def unpack_command(found: ImageFormat, path: str) -> str:
    """The command that makes a raw disk of a container or a compressed file."""
    raw = quote(f"{path}.raw")
    if found.name in CONTAINERS:
        return f"qemu-img convert -f {found.name} -O raw {quote(path)} {raw}"
    return f"{found.name} -dc {quote(path)} > {raw}"


def require_raw(path: str, read: Callable[[int, int], bytes], size_bytes: int, image_format: str | None,
                hint: str = "") -> None:
    """Raise InvalidRequest where the disk at `path` is a container, unless `image_format` is "raw": its bytes are
    meant.

    read(length, offset), in bytes; `hint`: what else can be done about it. A LUKS device is a disk: only a warning is
    logged."""
    if image_format not in (None, RAW):
        raise InvalidRequest(f"image format {image_format!r}", "give 'raw', or nothing: a disk must be raw")
    found = None if image_format else look(read, size_bytes)
    if found is None:
        return
    if not found.container:
        log.warning("%s is %s: what the volume holds is encrypted", path, found.title)
        return
    raise InvalidRequest(f"{path} is {found.title}, not a raw disk",
                         (hint or f"make a raw disk of it: {unpack_command(found, path)}") +
                         "; where its own bytes are meant: --format raw, in Python image_format='raw'")

"""Traces inside .tar and .zip: a member of `days.tar` is the file `days.tar/NAME`, listed and read like any other.

A .tar may itself be compressed; each of its members is then found by unpacking what lies before it. A member that is
compressed is unpacked as a file would be. Nothing is written to disk, and memory does not grow with the members.
"""
from __future__ import annotations

import io
import os
import tarfile
import zipfile
from typing import IO, Any

from cdp.trace import packed
from cdpcore.base.errors import InvalidRequest

HEAD_BYTES = 512  # what kind() looks at
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, *packed.DAMAGE)


def kind(head: bytes) -> str:
    """tar, zip, or "" for what is neither, by the first HEAD_BYTES of the content (of a .tar.gz: unpacked)."""
    if head[257:262] == b"ustar":
        return "tar"
    return "zip" if head.startswith(_ZIP_MAGICS) else ""


class Member(io.RawIOBase):
    """The content of one member, forward only. Owns what it was made from. size_bytes: as the archive says."""

    def __init__(self, content: IO[bytes], size_bytes: int, archive: tarfile.TarFile | zipfile.ZipFile, file: Any):
        self.size_bytes = size_bytes
        self._content, self._owned = content, (archive, file)
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.read(len(buffer))
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise EOFError(str(error)) from None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            for owned in (self._content, *self._owned):
                owned.close()
        super().close()


def names(path: str) -> list[str]:
    """The files in an archive as paths, in order. Raises InvalidRequest where it is damaged, OSError."""
    with open(path, "rb") as file:
        try:
            if _is_zip(file):
                with zipfile.ZipFile(file) as archive:
                    inside = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            else:
                with _tar(file) as tar:
                    inside = [entry.name for entry in tar if entry.isreg()]
        except _DAMAGE as error:
            raise _damaged(path, error) from None
    return [f"{path}/{name}" for name in dict.fromkeys(inside)]


def open_member(path: str) -> Member | None:
    """The member that `path` names, or None if it names none. Raises InvalidRequest where the archive is damaged or
    encrypted, OSError."""
    outer = os.path.dirname(path)
    while outer and not os.path.isfile(outer):
        outer = os.path.dirname(outer) if outer != os.path.dirname(outer) else ""
    if not outer:
        return None
    name = path[len(outer) + 1 :]
    file = open(outer, "rb")  # noqa: SIM115  the member owns it
    try:
        member = _zip_member(file, name) if _is_zip(file) else _tar_member(file, name)
    except _DAMAGE as error:
        file.close()
        raise _damaged(outer, error) from None
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted; compressed in a way it does not know
        file.close()
        raise InvalidRequest(f"{path}: {error}", "unpack the archive") from None
    except BaseException:
        file.close()
        raise
    if member is None:
        file.close()
    return member


def _is_zip(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start.startswith(_ZIP_MAGICS)


def _zip_member(file: IO[bytes], name: str) -> Member | None:
    archive = zipfile.ZipFile(file)
    try:
        entry = archive.getinfo(name)
    except KeyError:
        archive.close()
        return None
    return Member(archive.open(entry), entry.file_size, archive, file)


def _tar(file: io.BufferedReader) -> tarfile.TarFile:
    compression = packed.kind(file.peek(packed.HEAD_BYTES)[: packed.HEAD_BYTES])
    if compression:
        return tarfile.open(fileobj=packed.reader(compression, file), mode="r|")
    return tarfile.open(fileobj=file, mode="r:")


def _tar_member(file: io.BufferedReader, name: str) -> Member | None:
    head = file.peek(packed.HEAD_BYTES)
    if not packed.kind(head[: packed.HEAD_BYTES]) and kind(file.read(HEAD_BYTES)) != "tar":
        return None
    file.seek(0)
    tar = _tar(file)
    for entry in tar:
        if entry.isreg() and entry.name == name:
            content = tar.extractfile(entry)
            assert content is not None  # it is a regular file
            return Member(content, entry.size, tar, file)
    tar.close()
    return None


def _damaged(path: str, error: BaseException) -> InvalidRequest:
    return InvalidRequest(f"{path}: the archive is cut or damaged ({' '.join(str(error).split())})",
                          "fetch the file again")

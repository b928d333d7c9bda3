"""Error kinds, and the one converter from a nogil status to an exception.

Few kinds; each says what the user can do. Each carries:
    exit_code   what the command line exits with (documented in docs/cli.md)
    nbd_errno   the error that an NBD client gets
    hint        the next thing to do, or ""
"""
from cdpcore.base.status cimport (CDP_CLOSED, CDP_CORRUPT, CDP_INVALID, CDP_NOSPACE, CDP_NOTFOUND, CDP_OK, CDP_REFUSED,
                                  CDP_UNAVAILABLE, cdp_status)

import errno as _errno
import os as _os


class CdpError(Exception):
    """Base of all errors that this project raises on purpose. str() is one line: what, where, what to do next."""

    exit_code = 1
    nbd_errno = _errno.EIO

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class InvalidRequest(CdpError):
    """The request is wrong; nothing was changed."""

    exit_code = 2
    nbd_errno = _errno.EINVAL


class NotFound(CdpError):
    """No such volume, image, bookmark or file."""

    exit_code = 3
    nbd_errno = _errno.ENOENT


class RefusedPoint(CdpError):
    """A point outside the window, or history that something still needs."""

    exit_code = 4
    nbd_errno = _errno.EINVAL


class Corruption(CdpError):
    """Bytes on disk fail their checksum or break a rule of the format."""

    exit_code = 5
    nbd_errno = _errno.EIO


class OutOfSpace(CdpError):
    """A device or a configured bound is full; nothing that was acknowledged is lost."""

    exit_code = 6
    nbd_errno = _errno.ENOSPC


class Busy(CdpError):
    """Another process has the volume open, or the object is in use."""

    exit_code = 7
    nbd_errno = _errno.EBUSY


class Unavailable(CdpError):
    """The device failed, or the object cannot do this (read-only)."""

    exit_code = 8
    nbd_errno = _errno.EIO


class Closed(CdpError):
    """The object was closed."""

    exit_code = 8
    nbd_errno = _errno.ESHUTDOWN


_KINDS = {
    CDP_INVALID: (InvalidRequest, ""),
    CDP_NOTFOUND: (NotFound, ""),
    CDP_NOSPACE: (OutOfSpace, "free space on the device, then repeat"),
    CDP_CORRUPT: (Corruption, "run 'cdp check' on the volume"),
    CDP_UNAVAILABLE: (Unavailable, ""),
    CDP_CLOSED: (Closed, ""),
    CDP_REFUSED: (RefusedPoint, ""),
}


def code_of(error) -> int:
    """enum cdp_code (base/status.h) of an error, for a seam that carries numbers."""
    return next((code for code, (kind, _) in _KINDS.items() if type(error) is kind), CDP_UNAVAILABLE)


def error_of(code: int, sys_errno: int, what: str) -> CdpError:
    """The error that such a number stands for; `what`: its text."""
    kind, hint = _KINDS.get(code, (CdpError, ""))
    return kind(f"{what}: {_os.strerror(sys_errno)}" if sys_errno else what, hint)


PAST_THE_END = "a request reaches past the end"
_MAKES_A_FILE = ("creating a log segment", "run: create")


cdef int check(int rc, cdp_status *st, object what) except -1:
    if rc == CDP_OK:
        return rc
    kind, hint = _KINDS.get(st.code, (CdpError, ""))
    where = st.where.decode() if st.where != NULL else "engine"
    text = f"{what}: {where}" if what else where
    if st.code == CDP_INVALID and where.startswith(PAST_THE_END) and st.expected:
        text += f", which has {st.expected} bytes: bytes {st.offset} to {st.actual}"
    else:
        if st.code in (CDP_CORRUPT, CDP_INVALID) or st.offset:
            text += f" at byte {st.offset}"
        if st.expected != st.actual and st.code == CDP_CORRUPT:     # checksums, mostly
            text += f" (expected {st.expected:#x}, found {st.actual:#x})"
        elif st.expected != st.actual:
            text += f" (expected {st.expected}, found {st.actual})"
    if where.startswith("the history has reached the limit"):
        hint = "'cdp policy' raises the limit, 'cdp pins' lists what holds history"
    if st.sys_errno:
        text += f": {_os.strerror(st.sys_errno)}"
        if st.sys_errno == _errno.EROFS and "time image" in where:
            hint = "write to a writable image of this point instead"
        elif st.sys_errno == _errno.EFBIG:
            hint = "the file system, or a limit (ulimit -f), allows no larger file"
        elif st.sys_errno == _errno.EDQUOT:
            hint = "free space or files of the quota, or raise it, then repeat"
        elif st.sys_errno == _errno.ENOSPC and where in _MAKES_A_FILE:
            hint = "no file can be made: remove files on the device where 'df -i' shows no free inode, else free space"
        elif "open read-only" in where:
            hint = "open it where, and as a user by whom, it can be written"
        elif "being filled" in where:
            hint = "wait until the import is done, then repeat"
        elif st.sys_errno == _errno.EROFS:
            hint = "mount the file system writable"
    raise kind(text, hint)

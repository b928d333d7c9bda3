"""Errors between processes: the one JSON form of a CdpError, and back."""
from __future__ import annotations

import json
from typing import Any

from cdpcore.base import errors
from cdpcore.base.errors import CdpError


def encode_error(error: BaseException) -> dict[str, Any]:
    """{kind, message, hint, exit_code}; kind is the class in cdpcore.base.errors. Others are internal errors."""
    if not isinstance(error, CdpError):
        error = CdpError(f"internal error: {type(error).__name__}: {error}", "see the log, and report it")
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def answered_error(status: int, text: bytes) -> CdpError:
    """The error that an administration socket answered with."""
    try:
        body = json.loads(text)
        if "kind" in body:
            return decode_error(body)
    except (ValueError, TypeError, RecursionError):
        pass
    said = text[:200].decode(errors="replace")
    return errors.Unavailable(f"the server answered {status} {said!r}", "see the server's log")


def decode_error(body: Any) -> CdpError:
    """The error that encode_error() wrote; CdpError itself where the kind is unknown, or it is no error at all."""
    if not isinstance(body, dict):
        return CdpError("the other process reported an error that it did not name", "see its log")
    kind = getattr(errors, str(body.get("kind")), CdpError)
    if not (isinstance(kind, type) and issubclass(kind, CdpError)):
        kind = CdpError
    return kind(str(body.get("message", "")), str(body.get("hint", "")))

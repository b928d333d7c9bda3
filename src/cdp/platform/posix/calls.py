"""The structures of the portable API as JSON, and a conversation: calls and answers on a link, with calls nested in
callbacks.

Invariant: a thread of the hub that makes a callback carries out, until the callback has returned, the calls that are
made inside it. So what the reference platform knows of threads ("inside this callback") holds across the process
boundary.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cdp.ipc.errors import decode_error, encode_error
from cdp.ipc.link import Link
from cdp.platform.structures import Assignment, BgRef, CpMsg, GroupName, Lun, MDPacket
from cdpcore.base.errors import CdpError, Unavailable


def packed(value: Any) -> Any:
    """For JSON. Raises TypeError for what does not belong here."""
    match value:
        case MDPacket():
            return {"packet": bytes(value).hex()}
        case bytes():
            return {"bytes": value.hex()}
        case GroupName():
            return {"group": list(value)}
        case BgRef():
            return {"ref": list(value)}
        case Lun():
            return {"lun": [value.lun, value.path, value.read_only]}
        case Assignment():
            return {"assignment": [value.epoch, [packed(lun) for lun in value.luns], value.takeover]}
        case CpMsg():
            return {"message": [packed(value.body), packed(value.sender), value.redelivered, value.handle]}
        case CdpError():
            return {"error": encode_error(value)}
        case dict():
            return {"dict": {name: packed(one) for name, one in value.items()}}
        case list() | tuple():
            return [packed(one) for one in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{type(value).__name__} between processes")


def unpacked(value: Any) -> Any:
    """What packed() made of it; sequences come as lists."""
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    match kind:
        case "packet":
            return MDPacket.from_bytes(bytes.fromhex(body))
        case "bytes":
            return bytes.fromhex(body)
        case "group":
            return GroupName(*body)
        case "ref":
            return BgRef(*body)
        case "lun":
            return Lun(*body)
        case "assignment":
            return Assignment(body[0], tuple(unpacked(lun) for lun in body[1]), body[2])
        case "message":
            return CpMsg(unpacked(body[0]), unpacked(body[1]), body[2], body[3])
        case "error":
            return decode_error(body)
        case "dict":
            return {name: unpacked(one) for name, one in body.items()}
    raise TypeError(f"{kind} between processes")


def call(link: Link, method: str, args: Sequence[Any]) -> tuple[Any, list[int]]:
    """Have the other side do something; what it returns, and file descriptors. Raises what it raises, Unavailable where
    it is gone."""
    link.send({"call": method, "args": packed(list(args))})
    got = link.receive()
    if got is None:
        raise Unavailable("the platform's hub process is gone", "start the system again")
    message, fds = got
    if "error" in message:
        raise decode_error(message.get("error"))
    return unpacked(message["value"]), fds


Serve = Callable[[str, list[Any]], tuple[Any, Sequence[int]]]


def answer(link: Link, message: dict[str, Any], serve: Serve) -> bool:
    """Carry out a call that came. False: the other side is gone."""
    try:
        value, fds = serve(message["call"], unpacked(message["args"]))
        return link.send({"value": packed(value)}, fds)
    except Exception as error:      # noqa: BLE001  (raised again over there)
        return link.send({"error": encode_error(error)})


def call_back(link: Link, args: Sequence[Any], serve: Serve) -> None:
    """Make a callback over there, and carry out what it asks for meanwhile. Returns when it has returned, or is
    gone."""
    if not link.send({"event": packed(list(args))}):
        return
    while (got := link.receive()) is not None and "call" in got[0]:
        if not answer(link, got[0], serve):
            return

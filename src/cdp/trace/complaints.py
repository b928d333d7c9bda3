"""One-line messages about places in trace files."""
from __future__ import annotations

from cdpcore.base.errors import InvalidRequest

SKIP_HINT = "--skip-bad counts such places and goes on"


def shown(found: bytes, limit: int = 24) -> str:
    """What a user sees of the bytes at a bad place: up to the next separator, printable, short."""
    if not found:
        return "the end of the line"
    stop = next((i for i, b in enumerate(found) if i and b in b",; \t"), len(found))
    return quoted(found[:stop], limit)


def quoted(text: bytes, limit: int) -> str:
    """At most `limit` bytes in quotes, printable."""
    start = text[:limit].decode("utf-8", "backslashreplace")
    printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in start)
    return f"'{printable}{'...' if len(text) > limit else ''}'"


def line_place(path: str, format_name: str, line: int, column: int, expected: str, found: bytes) -> str:
    return f"{path}:{line}:{column}: {format_name}: expected {expected}, found {shown(found)}"


def record_place(path: str, format_name: str, number: int, byte: int, expected: str) -> str:
    return f"{path}: {format_name}: record {number} at byte {byte}: expected {expected}"


def bad(place: str, hint: str = SKIP_HINT) -> InvalidRequest:
    return InvalidRequest(place, hint)


def empty(path: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: empty file: expected {expected}", "was it stored whole?")

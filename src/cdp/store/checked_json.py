"""A small file of a folder: one line of JSON with a checksum, replaced as a whole (docs/format.md).

    {"crc32c": "1f0a...", "format": 1, NAME: {...}}

The checksum is that of the inner object as it is written here: keys in order. Threading: none.
"""
from __future__ import annotations

import json
from typing import Any

from cdpcore.base.checksum import crc32c


def packed(name: str, fields: dict[str, Any], version: int | None = None) -> bytes:
    """The line. version: its field `format`; None: it has none."""
    text = json.dumps(fields, sort_keys=True)
    known = "" if version is None else f'"format": {version}, '
    return f'{{"crc32c": "{crc32c(text.encode()):08x}", {known}"{name}": {text}}}\n'.encode()


def unpacked(raw: bytes, name: str, version: int | None = None) -> dict[str, Any]:
    """The inner object. Raises ValueError, KeyError, TypeError, AttributeError where it is damaged, or of another
    version."""
    outer = json.loads(raw)
    inner: dict[str, Any] = outer[name]
    if int(outer["crc32c"], 16) != crc32c(json.dumps(inner, sort_keys=True).encode()):
        raise ValueError("checksum")
    if version is not None and outer["format"] != version:
        raise ValueError(f"format {outer['format']!r} is not known here")
    return inner

"""The names of an archive's objects: their one home. Pure functions."""
from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

BOUNDARY = "boundary"
MANIFESTS, SEGMENTS, OUTLINES, BASE, PAGES, PROBES = "man/", "seg/", "outline/", "base/", "page/", "probe/"
DATA = (SEGMENTS, OUTLINES, BASE, PAGES)
DIGEST_DIGITS = 32      # of SHA-256: 128 bits
_DATA_NAME = re.compile(r"(seg|outline|base|page)/([0-9]{20})-([0-9]{10})-([0-9a-f]{32})")
_MANIFEST_NAME = re.compile(r"man/([0-9]{20})")


@dataclass(frozen=True)
class DataName:
    """What the name of a data object says. `at`: the first seq of a segment, an offset, or a place in a list."""

    folder: str
    at: int
    epoch: int
    digest: str


def digest(data: bytes) -> str:
    """As it is in the name of an object with this content."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def data_name(folder: str, at: int, epoch: int, data: bytes) -> str:
    return f"{folder}{at:020d}-{epoch:010d}-{digest(data)}"


def manifest_name(number: int) -> str:
    return f"{MANIFESTS}{number:020d}"


def manifest_number(name: str) -> int | None:
    """None: it is not the name of a manifest."""
    found = _MANIFEST_NAME.fullmatch(name)
    return int(found[1]) if found else None


def parsed(name: str) -> DataName | None:
    """None: it is not the name of a data object."""
    found = _DATA_NAME.fullmatch(name)
    return DataName(f"{found[1]}/", int(found[2]), int(found[3]), found[4]) if found else None

"""A manifest: what an archive holds, at one commit; its text, and what makes it valid.

Invariants
  1. decode(encode(m)) == m; what is not exactly such a text is refused with Corruption.
  2. A list is as long as it may be: beyond 2 x PAGE_ITEMS its oldest items go into objects of their own.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cdp.archive.names import parsed
from cdp.store import checked_json
from cdp.store.description import Geometry
from cdpcore.base.errors import Corruption

FORMAT = 1
PAGE_ITEMS = 512
_NO_LIST: dict[str, list[Any]] = {"pages": [], "items": []}     # of manifests that were made before there were any
MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """An object that holds `size` bytes of a file."""

    name: str
    size: int


@dataclass(frozen=True)
class Page:
    """An object with `items` items of a list."""

    name: str
    size: int
    items: int


@dataclass(frozen=True)
class Listing:
    """A list of JSON values: those in the pages, then `items`."""

    pages: tuple[Page, ...] = ()
    items: tuple[Any, ...] = ()


@dataclass(frozen=True)
class ArchivedSegment:
    """A segment, or the beginning of one that is not sealed."""

    number: int
    first_seq: int
    last_seq: int
    last_ts_ns: int
    sealed: bool
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def item(self) -> list[Any]:
        return [self.number, self.first_seq, self.last_seq, self.last_ts_ns, self.sealed,
                [[part.name, part.size] for part in self.parts]]


@dataclass(frozen=True)
class BasePart:
    """Bytes of the base, from `offset` on."""

    offset: int
    part: Part

    def item(self) -> list[Any]:
        return [self.offset, self.part.name, self.part.size]


@dataclass(frozen=True)
class Outline:
    """Of the sealed segment with that number (cdp.archive.outline)."""

    number: int
    part: Part

    def item(self) -> list[Any]:
        return [self.number, self.part.name, self.part.size]


@dataclass(frozen=True)
class Manifest:
    """docs/archive-format.md says what the fields are."""

    number: int
    epoch: int
    nonce: str
    volume: dict[str, Any]
    complete: bool = False
    upto: tuple[int, int] | None = None
    segments: Listing = Listing()
    outlines: Listing = Listing()
    base: Listing = Listing()
    base_at: int = 0
    base_seq: int = 0
    retention: str | None = None

    @property
    def geometry(self) -> Geometry:
        return checked_json.made(Geometry, self.volume)

    @property
    def seq(self) -> int:
        """Of the newest record; 0: none."""
        return self.upto[0] if self.upto else 0


def segment_of(item: Any) -> ArchivedSegment:
    """Raises Corruption."""
    try:
        number, first_seq, last_seq, last_ts_ns, sealed, parts = item
        return ArchivedSegment(_number(number), _number(first_seq), _number(last_seq), _number(last_ts_ns),
                               _flag(sealed), tuple(Part(_data(name), _number(size)) for name, size in parts))
    except (TypeError, ValueError) as e:
        raise Corruption(f"a segment in a manifest: {e}", "run 'cdp check' on the archive") from None


def base_part_of(item: Any) -> BasePart:
    """Raises Corruption."""
    try:
        offset, name, size = item
        return BasePart(_number(offset), Part(_data(name), _number(size)))
    except (TypeError, ValueError) as e:
        raise Corruption(f"a part of the base in a manifest: {e}", "run 'cdp check' on the archive") from None


def outline_of(item: Any) -> Outline:
    """Raises Corruption."""
    try:
        number, name, size = item
        return Outline(_number(number), Part(_data(name), _number(size)))
    except (TypeError, ValueError) as e:
        raise Corruption(f"an outline in a manifest: {e}", "run 'cdp check' on the archive") from None


def encode(manifest: Manifest) -> bytes:
    text = _compact({
        "format": FORMAT, "number": manifest.number, "epoch": manifest.epoch, "nonce": manifest.nonce,
        "complete": manifest.complete, "volume": manifest.volume,
        "upto": list(manifest.upto) if manifest.upto else None, "segments": _listing_text(manifest.segments),
        "outlines": _listing_text(manifest.outlines), "base": _listing_text(manifest.base),
        "base_at": manifest.base_at, "base_seq": manifest.base_seq,
        "retention": manifest.retention})
    return f'{{"manifest":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()


def decode(data: bytes, where: str, number: int) -> Manifest:
    """The manifest of that number, which lies at `where`. Raises Corruption."""
    try:
        outer = json.loads(data)
        inner = outer["manifest"]
        if hashlib.sha256(_compact(inner).encode()).hexdigest() != outer["sha256"]:
            raise ValueError("checksum")
        if inner["format"] != FORMAT:
            raise Corruption(f"{where}: format {inner['format']!r} is not known here",
                             "use the version of cdp that made it")
        upto, retention = inner["upto"], inner["retention"]
        manifest = Manifest(
            _number(inner["number"]), _number(inner["epoch"]), str(inner["nonce"]), dict(inner["volume"]),
            _flag(inner["complete"]), (_number(upto[0]), _number(upto[1])) if upto else None,
            _listing(inner["segments"]), _listing(inner.get("outlines", _NO_LIST)), _listing(inner["base"]),
            _number(inner["base_at"]), _number(inner["base_seq"]), None if retention is None else str(retention))
        geometry = manifest.geometry
        if manifest.number != number or len(bytes.fromhex(geometry.uuid)) != 16:
            raise ValueError("it is another manifest")
        for item in manifest.segments.items:
            segment_of(item)
        for item in manifest.base.items:
            base_part_of(item)
        for item in manifest.outlines.items:
            outline_of(item)
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise Corruption(f"{where}: damaged ({e})", "see whether the store has an earlier version of it") from None


def page_text(items: tuple[Any, ...]) -> bytes:
    """The content of an object in page/."""
    return _compact(list(items)).encode()


def page_items(data: bytes, page: Page) -> list[Any]:
    """Raises Corruption."""
    try:
        items = json.loads(data)
        if not isinstance(items, list) or len(items) != page.items:
            raise ValueError("another number of items")
        return items
    except (ValueError, RecursionError) as e:
        raise Corruption(f"{page.name}: {e}", "run 'cdp check' on the archive") from None


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _listing_text(listing: Listing) -> dict[str, Any]:
    return {"pages": [[page.name, page.size, page.items] for page in listing.pages], "items": list(listing.items)}


def _listing(value: Any) -> Listing:
    pages = tuple(Page(_data(name), _number(size), _number(items)) for name, size, items in value["pages"])
    return Listing(pages, tuple(value["items"]))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _data(value: Any) -> str:
    if type(value) is not str or parsed(value) is None:
        raise ValueError(f"{value!r} is no name of an object")
    return value

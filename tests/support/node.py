"""The volume, or an image, of a world: what is open of it, and its model."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.model import BOOKMARK, RESTORE, UNBOOKMARK, Model

from cdp.moments.thinned import Thinned
from cdpcore.base.errors import CdpError


@dataclass
class Node:
    """The volume, or an image: what is open of it, and its model."""

    path: str
    model: Model
    seq: int = 0                                    # of the parent, for an image
    start: int = 0                                  # the oldest moment that can be opened
    asked: int = 0                                  # ... or this one, where it moved when the power went
    thinned: Thinned = field(default_factory=Thinned)  # which moments of the middle can be opened
    thinned_to: Thinned | None = None               # ... or these, where that was asked for when the power went
    volume: Any = None
    images: dict[str, Node] = field(default_factory=dict)
    held: list[tuple[Any, int]] = field(default_factory=list)   # time images, their seqs
    ts: dict[int, int] = field(default_factory=dict)
    shown: dict[int, tuple[int, int, bool]] = field(default_factory=dict)   # by the clock: from, to; times follow it

    def bookmarks(self) -> dict[str, tuple[int, int]]:
        """name -> (seq it names, seq of its record)."""
        found: dict[str, tuple[int, int]] = {}
        for seq, row in self.model.notes:
            if row.kind == BOOKMARK:
                found[row.note[0]] = row.note[1], seq
            elif row.kind == UNBOOKMARK:
                found.pop(row.note, None)
        return {name: b for name, b in found.items() if self.openable(b[0])}

    def restores(self) -> list[tuple[int, int, int, int, bool, int | None, bool]]:
        """(seq, target, offset, length, destructive, undo_of, undoable), as Volume.restores() has them."""
        rows = [(seq, row) for seq, row in self.model.notes if row.kind == RESTORE]
        undone = {row.note[2] for _, row in rows}
        return [(seq, row.note[0], row.offset, row.length, row.note[1], row.note[2],
                 not row.note[1] and not row.note[2] and seq not in undone and self.openable(seq - 1)
                 and self.openable(seq))
                for seq, row in rows if seq > self.start]

    def gaps(self) -> list[tuple[int, int]]:
        return [(row.note[0], seq) for seq, row in self.model.notes
                if row.kind == RESTORE and row.note[1] and seq > self.start]

    def openable(self, seq: int) -> bool:
        return self.is_there(seq) and self.thinned.at(seq) == seq

    def is_there(self, seq: int) -> bool:
        """Neither given up nor freed by a destructive restore; thinned, perhaps."""
        return seq >= self.start and not any(lo < seq < hi for lo, hi in self.gaps())

    def family(self) -> list[Node]:
        return [self, *(n for image in self.images.values() for n in image.family())]


def refused(kind: type[CdpError], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as e:
        assert str(e)
        return
    raise AssertionError(f"not refused as {kind.__name__}")

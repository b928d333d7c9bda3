"""Which moments of the middle of a volume's history can be opened: VOLUME/thinned.json. docs/format.md defines it.

    {"crc32c": "...", "format": 1, "thinned": {"kept": [...], "todo": [[lo, hi], ...]}}

Invariants
  1. The file is replaced as a whole, durably, before the first byte goes that only moments outside of the list show.
  2. It counts from format 7 of volume.json on, and is there then. Below, it is what an interrupted first round left.
One thread at a time.
"""
from __future__ import annotations

import itertools

from cdp.moments.thinned import MOST_KEPT, Thinned
from cdp.store import checked_json
from cdp.store.description import THINNED, Geometry
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, NotFound
from cdpcore.system.os import Os

FORMAT = 1


def save(os: Os, files: VolumeFiles, thinned: Thinned) -> None:
    """Durable at return: the old file or the new one."""
    fields = {"kept": list(thinned.kept), "todo": [list(span) for span in thinned.todo]}
    os.write_file(files.thinned, checked_json.packed("thinned", fields, FORMAT))


def load(os: Os, files: VolumeFiles, geometry: Geometry) -> Thinned:
    """What counts. Raises Corruption where that is not known: then of no moment it is known whether it is right."""
    if geometry.format < THINNED:
        return Thinned()
    path = files.thinned
    try:
        inner = checked_json.unpacked(os.read_file(path), "thinned", FORMAT)
        found = checked_json.made(Thinned, inner)
        _check(found)
        return found
    except (ValueError, KeyError, TypeError, AttributeError, NotFound) as error:
        why = "missing" if isinstance(error, NotFound) else f"damaged ({error})"
        raise Corruption(f"{path}: {why}: which moments can be opened is not known",
                         "put it back from a copy of the volume's folder; it is one line of text") from None


def _check(thinned: Thinned) -> None:
    if any(seq < 0 for seq in [*thinned.kept, *(seq for span in thinned.todo for seq in span)]):
        raise ValueError("a record that is no number")
    if not 1 < len(thinned.kept) <= MOST_KEPT or any(a >= b for a, b in itertools.pairwise(thinned.kept)):
        raise ValueError("the kept moments do not ascend")
    if any(lo >= hi for lo, hi in thinned.todo) or any(a[1] > b[0] for a, b in itertools.pairwise(thinned.todo)):
        raise ValueError("the spans do not ascend")

"""Deletes what an archive does not need any more (docs/archive-format.md, *Boundary and deletion*).

Manifests that are far behind the newest one; and objects that writers of earlier epochs sent and never committed. The
order is what makes it safe: nothing is deleted before the boundary says so, and nobody but the writer with the newest
epoch deletes.
"""
from __future__ import annotations

from cdp.archive.commits import Commits
from cdp.archive.conditional import move_boundary
from cdp.archive.manifest import Listing, Manifest, base_part_of, outline_of, page_items, segment_of
from cdp.archive.names import DATA, MANIFESTS, digest, manifest_number, parsed
from cdp.archive.objects import ObjectStore
from cdpcore.base.errors import Corruption

KEEP = 16       # manifests: a reader that is at an older one begins again
EVERY = 64      # manifests are made before those before them are deleted


def due(commits: Commits) -> bool:
    return commits.last.number - commits.oldest >= KEEP + EVERY


def delete_old(store: ObjectStore, commits: Commits, keep: int | None = None) -> int:
    """Delete manifests that are more than `keep` (None: KEEP) behind. Returns how many. Raises Fenced, Unavailable."""
    bound = commits.last.number - (KEEP if keep is None else keep)
    if bound < 1:
        return 0
    _move(store, commits, bound)
    old = [name for name in store.names(MANIFESTS) if (manifest_number(name) or bound) < bound]
    for name in old:
        store.delete(name)
    commits.oldest = bound
    return len(old)


def delete_unnamed(store: ObjectStore, commits: Commits) -> int:
    """Delete what writers of earlier epochs left and the newest manifest does not name. Returns how many objects.
    Raises Fenced, Corruption, Unavailable."""
    named = _names(store, commits.last)
    commits.confirm()
    count = 0
    for folder in DATA:
        for name in list(store.names(folder)):
            found = parsed(name)
            if found is not None and found.epoch < commits.epoch and name not in named:
                store.delete(name)
                count += 1
    return count


def _move(store: ObjectStore, commits: Commits, bound: int) -> None:
    move_boundary(store, bound, commits.epoch, commits.nonces)
    commits.confirm()


def _names(store: ObjectStore, manifest: Manifest) -> set[str]:
    """Of all data objects that the manifest names."""
    found: set[str] = set()
    for item in _items(store, manifest.segments, found):
        found.update(part.name for part in segment_of(item).parts)
    for item in _items(store, manifest.outlines, found):
        found.add(outline_of(item).part.name)
    for item in _items(store, manifest.base, found):
        found.add(base_part_of(item).part.name)
    return found


def _items(store: ObjectStore, listing: Listing, found: set[str]) -> list[object]:
    items: list[object] = []
    for page in listing.pages:
        found.add(page.name)
        data, name = store.get(page.name), parsed(page.name)
        if data is None or name is None or digest(data) != name.digest:
            raise Corruption(f"{store.url}/{page.name}: is missing, or damaged", f"run 'cdp check {store.url}'")
        items += page_items(data, page)
    return [*items, *listing.items]

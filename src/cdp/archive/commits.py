"""The chain of manifests: the newest one, and how a writer adds to it (docs/archive-format.md, *Writing*)."""
from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cdp.archive.conditional import TRIES, Nonces, create_mine, probe, read_boundary
from cdp.archive.manifest import Manifest, decode, encode
from cdp.archive.names import MANIFESTS, manifest_name, manifest_number
from cdp.archive.objects import ObjectStore
from cdpcore.base.errors import Busy, Unavailable

OPENINGS = 16       # other writers may open at the same time; each time one of them succeeds


class Fenced(Busy):
    """Another writer has taken the archive over."""


def new_nonce() -> str:
    return secrets.token_hex(16)


def newest(store: ObjectStore) -> Manifest | None:
    """None: there is no archive. Raises Corruption, Unavailable."""
    return _newest(store)[0]


def _newest(store: ObjectStore) -> tuple[Manifest | None, int]:
    """And the number of the oldest one."""
    for _ in range(TRIES):
        numbers = [n for n in map(manifest_number, store.names(MANIFESTS)) if n is not None]
        if not numbers:
            return None, 1
        number = max(numbers)
        name = manifest_name(number)
        data = store.get(name)
        if data is not None:
            return decode(data, f"{store.url}/{name}", number), min(numbers)
        # else it was deleted since: there is a newer one
    raise Unavailable(f"{store.url}: its manifests change faster than they can be read", "repeat this")


class Commits:
    """A writer's place in the chain, made by take_over(). last: the manifest that counts for it; oldest: the number of
    the first one that there may be; made, sent_bytes: manifests that it committed."""

    def __init__(self, store: ObjectStore, last: Manifest, oldest: int, nonces: Nonces):
        self._store, self.nonces = store, nonces
        self.last, self.oldest = last, oldest
        self.made, self.sent_bytes = 1, len(encode(last))
        self._doubtful: tuple[Manifest, bytes] | None = None    # it may be in the store, or come there

    @property
    def epoch(self) -> int:
        return self.last.epoch

    def commit(self, **changes: Any) -> Manifest:
        """Make `last` with these changes the newest manifest. Raises Fenced: then this writer must stop; Unavailable:
        it may have become the newest, or will."""
        self.end_doubt()
        manifest = replace(self.last, number=self.last.number + 1, nonce=self.nonces(), **changes)
        data = encode(manifest)
        self._doubtful = manifest, data
        self.end_doubt()
        return self.last

    def end_doubt(self) -> None:
        """The manifest that was tried last counts, or another writer's does."""
        if self._doubtful is None:
            return
        manifest, data = self._doubtful
        if not _created(self._store, manifest, data):
            raise Fenced(f"{self._store.url}: another writer has taken this archive over",
                         "see where else 'cdp archive' runs; to take it back, start this again")
        self._doubtful = None
        self.last = manifest
        self.made += 1
        self.sent_bytes += len(data)

    def confirm(self) -> None:
        """Nobody has come after `last`. Raises Fenced, Unavailable."""
        self.end_doubt()
        if self._store.get(manifest_name(self.last.number + 1), 0, 1) is not None:
            raise Fenced(f"{self._store.url}: another writer has taken this archive over",
                         "see where else 'cdp archive' runs; to take it back, start this again")


def _created(store: ObjectStore, manifest: Manifest, data: bytes) -> bool:
    """Whether the manifest is in the chain, as this writer's."""
    if not create_mine(store, manifest_name(manifest.number), data):
        return False
    return read_boundary(store).manifest <= manifest.number     # else: the name had been used, and deleted


def take_over(store: ObjectStore, volume: Callable[[], dict[str, Any]], check: Callable[[Manifest], None],
              nonces: Nonces = new_nonce) -> Commits:
    """Open for writing, with a new epoch: everybody who wrote before is stopped by that. volume(): of a new archive,
    what volume.json says; check: raises where this writer may not continue what is there. Raises InvalidRequest (the
    store ignores conditions), Corruption, Busy, Unavailable."""
    probe(store, nonces)
    for _ in range(OPENINGS):
        now, oldest = _newest(store)
        if now is None:
            boundary = read_boundary(store).manifest
            mine = Manifest(max(1, boundary), 1, nonces(), volume())
        else:
            check(now)
            mine = replace(now, number=now.number + 1, epoch=now.epoch + 1, nonce=nonces())
        if _created(store, mine, encode(mine)):
            return Commits(store, mine, oldest, nonces)
    raise Busy(f"{store.url}: other writers open this archive all the time", "see where 'cdp archive' runs")

"""Requests that count only once and only if nobody was first: what they did, also when their answer is in doubt.

A store may answer 409 or 412 to a request that it carried out (the answer to the first copy was lost, the client
repeated it), or answer nothing and carry it out, at once or later. So every such object has a nonce in it: it is read
back, and whose it is decides.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cdp.archive.names import BOUNDARY, PROBES
from cdp.archive.objects import Conflict, ObjectStore
from cdpcore.base.errors import Corruption, InvalidRequest, Unavailable

TRIES = 5
Nonces = Callable[[], str]      # 32 new hexadecimal digits each time


def create_mine(store: ObjectStore, name: str, data: bytes) -> bool:
    """Create an object whose content nobody else would write. Returns whether it is there and ours; False: somebody
    else's is. Raises Unavailable: it may be created now, or later."""
    for last in range(TRIES):
        try:
            store.create(name, data)
            return True
        except Conflict:
            found = store.get(name)
        except Unavailable:
            found = store.get(name)
            if found is None and last == TRIES - 1:
                raise
        if found is not None:
            return found == data
    raise Unavailable(f"{store.url}: {name} can neither be created nor read", "repeat this later")


def create_data(store: ObjectStore, name: str, data: bytes) -> None:
    """Create an object whose name says what is in it. Raises Unavailable."""
    for last in range(TRIES):
        try:
            store.create(name, data)
            return
        except Conflict:
            # Of an earlier request of the same writer; or two at once were refused both.
            if store.get(name, 0, 1) is not None:
                return
        except Unavailable:
            if last == TRIES - 1:
                raise
    raise Unavailable(f"{store.url}: {name} can neither be created nor read", "repeat this later")


@dataclass(frozen=True)
class Boundary:
    """Manifests with a lower number may have been deleted. `tag`: of the object; "": there is none yet."""

    manifest: int
    tag: str = ""


def read_boundary(store: ObjectStore) -> Boundary:
    """Raises Corruption, Unavailable."""
    found = store.tagged(BOUNDARY)
    if found is None:
        return Boundary(0)
    try:
        manifest = json.loads(found[0])["manifest"]
        if type(manifest) is not int or manifest < 0:
            raise ValueError(f"{manifest!r}")
        return Boundary(manifest, found[1])
    except (ValueError, KeyError, TypeError) as e:
        raise Corruption(f"{store.url}: {BOUNDARY} is damaged ({e})", "begin a new archive, at another URL") from None


def move_boundary(store: ObjectStore, manifest: int, epoch: int, nonces: Nonces) -> None:
    """At return it is at `manifest`, or further on. Raises Unavailable."""
    data = json.dumps({"epoch": epoch, "manifest": manifest, "nonce": nonces()}).encode() + b"\n"
    for _ in range(TRIES):
        now = read_boundary(store)
        if now.manifest >= manifest:
            return
        try:
            if now.tag:
                store.replace(BOUNDARY, data, now.tag)
            else:
                store.create(BOUNDARY, data)
        except (Conflict, Unavailable):
            continue        # read again: it may be ours
        return
    raise Unavailable(f"{store.url}: {BOUNDARY} cannot be changed", "repeat this later")


def probe(store: ObjectStore, nonces: Nonces) -> None:
    """Raises InvalidRequest where the store ignores conditions: two writers would overwrite each other's commits."""
    name = f"{PROBES}{nonces()}"
    first, second, third = (f"{text} {nonces()}".encode() for text in ("first", "second", "third"))
    try:
        if not create_mine(store, name, first):
            raise _refused(store, "creates an object, and has another one")
        _must_conflict(store, "creates an object that exists", lambda: store.create(name, second))
        found = store.tagged(name)
        if found is None or found[0] != first:
            raise _refused(store, "does not show what was written")
        try:
            store.replace(name, second, found[1])
        except Conflict:
            if store.get(name) != second:       # else it is about the first copy of the request
                raise _refused(store, "does not replace an object that nobody changed (If-Match)") from None
        _must_conflict(store, "replaces an object that was changed (If-Match)",
                       lambda: store.replace(name, third, found[1]))
        if store.get(name) != second:
            raise _refused(store, "does not show what was written")
    finally:
        with suppress(Unavailable):     # what is left there harms nothing
            store.delete(name)


def _must_conflict(store: ObjectStore, what: str, request: Callable[[], None]) -> None:
    for _ in range(TRIES):
        try:
            request()
        except Conflict:
            return
        except Unavailable:
            continue
        raise _refused(store, what)
    raise Unavailable(f"{store.url}: cannot be tried out", "repeat this later")


def _refused(store: ObjectStore, what: str) -> InvalidRequest:
    return InvalidRequest(f"{store.url}: this store {what}; two writers would overwrite each other",
                          "take a store with conditional requests: S3, radosgw, MinIO, Google or Azure storage")

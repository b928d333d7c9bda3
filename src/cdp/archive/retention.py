"""The retention of an archive: what is older than its policy asks for goes (docs/archive-format.md, *Giving up*).

The archive is opened where it lies, and plays the policy over its own history, as a volume does. What goes is whole
segments, the oldest first; what they changed goes into the base before, a region at a time. Then the writer commits
what is left, under a new epoch, and deletes the rest.

An archive never has less than the volume: that may be restored to any moment that it has, and the record of the restore
says no more than which one it was.

One thread.
"""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from cdp.archive.direct import DirectArchive
from cdp.archive.manifest import BasePart, Manifest
from cdp.archive.objects import ObjectStore
from cdp.archive.reader import Archive
from cdp.moments import policy as policies
from cdp.moments.model import Moment
from cdp.moments.policy import Policy
from cdp.moments.retention import Pin, plan
from cdp.service.connect import open_volume
from cdp.settings import Settings
from cdpcore.base.errors import InvalidRequest

LEAST_SHARE = 10        # at least a tenth of the log has to be too old before something is done about it


@dataclass(frozen=True)
class Cut:
    """Where an archive begins from now on: after record `seq`. of: the manifest that was looked at. regions: (offset,
    content) of the base, each whole; all others stay."""

    of: Manifest
    seq: int
    ts_ns: int
    flushed: bool
    regions: Iterator[tuple[int, bytes]]


def parsed(rules: tuple[str, ...]) -> Policy:
    """The policy of `keep` with these rules. Raises InvalidRequest."""
    found = policies.from_table({"keep": list(rules)}, lambda key: f"--{key}")
    if len(found.tiers) > 1:
        raise InvalidRequest(f"--keep {found.tiers[1].text!r}: an archive keeps every moment of a span",
                             "write 'all for SPAN', and rules for bookmarks")
    return found


def may_be_due(archive: Archive, policy: Policy, now_ns: int) -> bool:
    """Whether so much may be too old that it is worth a look; by the times of records alone."""
    span_ns = policy.tiers[0].span_ns
    if span_ns is None:
        return False
    total = old = 0
    for segment in archive.segments():
        total += segment.size
        old += segment.size if segment.sealed and segment.last_ts_ns < now_ns - span_ns else 0
    return old > 0 and old * LEAST_SHARE >= total


@contextmanager
def cut_of(store: ObjectStore, settings: Settings, policy: Policy, region_bytes: int,
           oldest: Moment) -> Iterator[Cut | None]:
    """What the policy gives up of the archive now; valid inside. None: nothing. oldest: moment that the volume still
    has. Raises what opening it raises."""
    with tempfile.TemporaryDirectory(prefix="cdp-archive-") as folder:
        found = DirectArchive(store, os.path.join(folder, "volume"), settings)
        with closing(found), open_volume(found.root, settings) as volume:
            history, ages = volume.policy_keeper.history()
            pins = [*volume.policy_keeper.pins(policy), Pin("volume", "", "it still has it", oldest)]
            start_seq = plan(policy, history, pins, ages).start_seq
            if start_seq <= volume.window().oldest.seq:
                yield None
                return
            moment = volume.explain(f"#{start_seq}")
            with volume.at(start_seq) as image:
                yield Cut(found.archive.manifest, moment.resolved.seq, moment.resolved.ts_ns, moment.flush_durable,
                          _regions(volume._store.kind.in_log(image.view()), image, region_bytes))


def _regions(ranges: Iterator[tuple[int, int]], image: Any, region_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The regions in which the log shows something at the moment of `image`, as it shows them."""
    done = 0
    for start, end in ranges:
        for offset in range(max(done, start // region_bytes * region_bytes), end, region_bytes):
            done = min(offset + region_bytes, image.size_bytes)
            yield offset, image.pread(done - offset, offset)


def laid_over(parts: list[BasePart], size_bytes: int, region_bytes: int) -> list[BasePart]:
    """Without the parts that later ones cover wholly."""
    full: set[int] = set()
    kept: list[BasePart] = []
    for laid in reversed(parts):
        end = laid.offset + laid.part.size
        if all(region in full for region in range(laid.offset // region_bytes, -(-end // region_bytes))):
            continue
        kept.append(laid)
        full.update(region for region in range(-(-laid.offset // region_bytes), -(-end // region_bytes))
                    if min((region + 1) * region_bytes, size_bytes) <= end)
    return kept[::-1]

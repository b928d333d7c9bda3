"""What the log keeps for moments that nobody wants: data of sealed segments that none of a list of moments shows.

Let k1 < k2 be neighbours among the moments that stay, and no restore in between them, nor what one goes back to: where
there is one, it, the record before it and its target have to be among them (moments_of()). Then a version in (k1, k2]
is seen by a moment that stays only if k2 shows it: an interval of a lineage that has it has all newer ones up to k2,
too. Of before-images, which are what their records overwrote, only if k1 does, from the other side.

The moments from the last one of the list on all stay. Bounded memory: a batch of records.

Threading: any thread; what is sealed does not change. Segments that are freed meanwhile are left out.
"""
from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence

from cdp.moments.records import keeps_data
from cdp.store import reclaim
from cdp.store.catalog import Segment
from cdp.store.store import Store
from cdpcore.base.errors import NotFound
from cdpcore.index.unseen import not_shown
from cdpcore.index.view import View

MOST_RECORDS = 1_000_000       # a few seconds
Range = tuple[int, int]
"""(offset, length) in a segment's file, in bytes: whole blocks."""


def moments_of(wanted: Iterable[int], first_seq: int, upto: int, restores: Iterable[tuple[int, int]]) -> list[int]:
    """The list for unseen(), from what is wanted: ascending, from first_seq to upto. restores: (target, seq)."""
    kept = {first_seq, upto, *wanted}
    for target, seq in restores:
        kept |= {target, seq - 1, seq}
    return sorted(seq for seq in kept if first_seq <= seq <= upto)


def unseen_bytes(store: Store, moments: Sequence[int], most_records: int = MOST_RECORDS) -> int:
    """How much of it there is in all sealed segments. Where they have more than most_records, worked out from as many
    of them as that, evenly spread."""
    rows = rows_within(store, moments)
    step = max(1, -(-sum(row.last_seq - row.first_seq + 1 for row in rows) // most_records))
    looked = rows[step // 2::step] or rows[:1]
    found = sum(length for row in looked for _, length in unseen(store, moments, row))
    return found * sum(row.file_bytes for row in rows) // max(1, sum(row.file_bytes for row in looked))


def rows_within(store: Store, moments: Sequence[int]) -> list[Segment]:
    """The sealed segments that unseen() would look at."""
    return [row for row in store.timeline.rows() if row.last_seq > moments[0] and row.first_seq <= moments[-1]]


def unseen(store: Store, moments: Sequence[int], row: Segment) -> Iterator[Range]:
    """Of a segment: data of records in (moments[0], moments[-1]] that none of the moments shows, nor a later one. What
    destructive restores freed is not among it. moments: as moments_of() gives them."""
    before = store.kind.log_before
    freed = [r for r in store.restores if r.destructive]
    try:
        for seqs, descs in store.timeline.descriptors(row.number):
            here = (seqs > moments[0]) & (seqs <= moments[-1]) & (descs["data_bytes"] > 0) & keeps_data(descs["kind"])
            for restore in freed:
                here &= ~reclaim.discarded(seqs, descs, restore)
            seqs, descs = seqs[here], descs[here]
            at = 0
            while at < len(seqs):
                i = bisect.bisect_left(moments, int(seqs[at]))      # moments[i - 1] < seq <= moments[i]
                end = int(seqs.searchsorted(moments[i], side="right"))
                if moments[i] - moments[i - 1] > 1:
                    view = View([(0, store.sectors, [(0, moments[i - 1])])]) if before else store.view_at(moments[i])
                    yield from not_shown(store.core.versions, view, row.number, descs[at:end].tobytes(), before)
                at = end
    except NotFound:
        pass

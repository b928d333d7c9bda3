"""Which version of a sector is visible.

Three layers, newest first: the extent tree of the open segment, that of the segment being sealed, the runs. Adding a
record and looking one up take the lock for the trees only; runs are searched without it, through a counted snapshot.

Invariants
 1. visible_seq and the tree change together, so a reader sees whole records, in order.
 2. tree covers the log's current segment, sealing_tree the one set aside, the snapshot's runs everything older.
 3. A snapshot never changes; a restore replaces its lineage, maintenance its runs, each keeping the other half.
 4. A reader has its snapshot until it has read the data, so freeing waits for the readers of older ones (readers_gone).
 5. Versions of seqs up to a snapshot's floor are in the base, which has what they would show; no tree has any.
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from cdpcore.base.clock cimport cdp_monotonic_ms, cdp_nap_us
from cdpcore.base.format cimport CDP_LOC_BASE, CDP_SECTOR
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.index.index cimport (cdp_history_of_runs, cdp_history_of_trees, cdp_lookup, cdp_lookup_before,
                                  cdp_lookup_runs, cdp_lookup_seqs, cdp_tree_bytes, cdp_tree_free, cdp_tree_has_room,
                                  cdp_tree_insert, cdp_tree_new)
from cdpcore.index.snapshot cimport (cdp_snapshot_is_oldest, cdp_snapshot_new, cdp_snapshot_ref, cdp_snapshot_succeed,
                                     cdp_snapshot_unref)
from cdpcore.index.view cimport View


cdef void drop(pieces *p) noexcept nogil:
    """The pieces, and the data that they point at, are no longer used."""
    free(p.heap)
    if p.snapshot != NULL:
        cdp_snapshot_unref(p.snapshot)


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class Versions:
    """The index of one volume. `os`: where its runs are mapped; `view`: its lineage; `max_records`: a segment is closed
    after that many, which bounds the extent tree; `last_seq`, `last_ts_ns`: of the last record, as recovery found
    it; `floor`: versions up to that seq do not count."""

    def __cinit__(self, Os os not None, View view not None, uint32_t max_records, uint64_t last_seq,
                  uint64_t last_ts_ns, uint64_t floor=0):
        pthread_mutex_init(&self.mutex, NULL)
        self.os = os
        self.max_records = max_records
        self.visible_seq = last_seq
        self.visible_ts_ns = last_ts_ns
        self.tree = cdp_tree_new(max_records)
        self.floor = floor
        self.snapshot = cdp_snapshot_new(&view.v, NULL, 0, floor)
        if self.tree == NULL or self.snapshot == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdp_tree_free(self.tree)
        cdp_tree_free(self.sealing_tree)
        if self.snapshot != NULL:
            cdp_snapshot_unref(self.snapshot)
        pthread_mutex_destroy(&self.mutex)

    cdef bint has_room(self, uint32_t n_changes) noexcept nogil:
        return cdp_tree_has_room(self.tree, n_changes)

    cdef void add(self, uint64_t seq, uint64_t ts_ns, const change *changes, uint32_t n) noexcept nogil:
        cdef uint32_t i
        pthread_mutex_lock(&self.mutex)
        for i in range(n):
            cdp_tree_insert(self.tree, seq, changes[i].start, changes[i].end, changes[i].loc)
        self.visible_seq = seq
        self.visible_ts_ns = ts_ns
        pthread_mutex_unlock(&self.mutex)

    cdef cdp_snapshot *reference(self) noexcept nogil:
        cdef cdp_snapshot *snap
        pthread_mutex_lock(&self.mutex)
        snap = cdp_snapshot_ref(self.snapshot)
        pthread_mutex_unlock(&self.mutex)
        return snap

    cdef int resolve(self, const cdp_view *view, uint64_t start, uint64_t end, uint64_t most, pieces *p,
                     cdp_status *st) noexcept nogil:
        """Pieces of [start, end) at `view` (NULL: now), all of one moment; to be dropped where it succeeds."""
        cdef cdp_piece known[FEW]
        cdef cdp_piece *trees_know = known
        cdef cdp_piece *both
        cdef cdp_tree *trees[2]
        cdef uint32_t n_trees
        cdef uint64_t cap = FEW, reached, of_trees = most, of_runs = most
        cdef int64_t n
        cdef cdp_snapshot *snap
        cdef const cdp_view *seen
        p.heap = NULL
        p.at = p.few
        while True:
            pthread_mutex_lock(&self.mutex)
            snap = cdp_snapshot_ref(self.snapshot)
            trees[0] = self.tree
            trees[1] = self.sealing_tree
            n_trees = 2 if self.sealing_tree != NULL else 1
            seen = view
            if view == NULL:
                seen = &snap.view
            n = cdp_lookup(seen, trees, n_trees, NULL, 0, start, end, trees_know, cap,
                           &of_trees if most else NULL, &reached, st)
            pthread_mutex_unlock(&self.mutex)
            if n >= 0 and (most or reached == end):
                n = cdp_lookup_runs(seen, snap.runs, snap.n_runs, snap.floor, trees_know, <uint64_t>n, p.at, cap,
                                    &of_runs if most else NULL, &reached, st)
            if n < 0 or most or reached == end:
                break
            cdp_snapshot_unref(snap)
            # Fragmented: begin again with more room, so that all pieces are of one moment.
            if not more_pieces(p, &cap, end - start):
                return cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"looking up a fragmented range")
            trees_know = p.heap + cap
        return done_pieces(p, n, reached, 2 * most - of_trees - of_runs, snap, st)

    cdef uint32_t trees_of(self, cdp_tree **trees) noexcept nogil:
        trees[0] = self.tree
        trees[1] = self.sealing_tree
        return 2 if self.sealing_tree != NULL else 1

    cdef void note(self, moment *m) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        m.seq = self.visible_seq
        m.generation = self.generation
        pthread_mutex_unlock(&self.mutex)

    cdef bint untouched(self, const moment *m, uint64_t start, uint64_t end) noexcept nogil:
        cdef cdp_tree *trees[2]
        cdef cdp_piece one
        cdef uint64_t reached
        cdef cdp_status st
        cdef bint same
        pthread_mutex_lock(&self.mutex)
        same = m.seq == self.visible_seq
        if not same and m.generation == self.generation:
            same = cdp_lookup_seqs(trees, self.trees_of(trees), m.seq, start, end, &one, 1, NULL, &reached, &st) == 1 \
                and reached == end and one.loc == 0
        pthread_mutex_unlock(&self.mutex)
        return same

    cdef int resolve_seqs(self, uint64_t after, uint64_t start, uint64_t end, uint64_t most, pieces *p, moment *m,
                          cdp_status *st) noexcept nogil:
        cdef cdp_tree *trees[2]
        cdef uint64_t cap = FEW, reached = end, steps = most
        cdef int64_t n = 0
        p.heap = NULL
        p.at = p.few
        while True:
            pthread_mutex_lock(&self.mutex)
            m.seq = self.visible_seq
            m.generation = self.generation
            n = cdp_lookup_seqs(trees, self.trees_of(trees), after, start, end, p.at, cap, &steps if most else NULL,
                                &reached, st)
            pthread_mutex_unlock(&self.mutex)
            if n < 0 or most or reached == end:
                return done_pieces(p, n, reached, most - steps, NULL, st)
            if not more_pieces(p, &cap, end - start):
                return cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"looking up a fragmented range")

    cdef int resolve_before(self, const cdp_view *view, uint64_t start, uint64_t end, uint64_t most, pieces *p,
                            moment *m, cdp_status *st) noexcept nogil:
        """Where no restore is being written back, runs are asked first and without the lock: what they know does not
        change."""
        cdef cdp_tree *trees[2]
        cdef cdp_piece whole
        cdef cdp_piece known[FEW]
        cdef cdp_piece *runs_know = known
        cdef uint64_t cap = FEW, reached, generation, first, second
        cdef int64_t n
        cdef cdp_snapshot *snap
        cdef const cdp_view *seen
        p.heap = NULL
        p.at = p.few
        whole.start = start
        whole.end = end
        whole.loc = CDP_LOC_BASE
        while True:
            pthread_mutex_lock(&self.mutex)
            snap = cdp_snapshot_ref(self.snapshot)
            first = second = most
            seen = view
            if view == NULL:
                seen = &snap.view
            generation = self.generation
            if seen.n_intervals == seen.n_pieces:
                pthread_mutex_unlock(&self.mutex)
                n = cdp_lookup_before(seen, NULL, 0, snap.runs, snap.n_runs, &whole, 1, runs_know, cap,
                                      &first if most else NULL, &reached, st)
                pthread_mutex_lock(&self.mutex)
                if n >= 0 and (most or reached == end):
                    n = cdp_lookup_before(seen, trees, self.trees_of(trees), NULL, 0, runs_know, <uint64_t>n, p.at, cap,
                                          &second if most else NULL, &reached, st)
            else:
                n = cdp_lookup_before(seen, trees, self.trees_of(trees), snap.runs, snap.n_runs, &whole, 1, p.at, cap,
                                      &first if most else NULL, &reached, st)
            m.seq = self.visible_seq
            m.generation = self.generation
            pthread_mutex_unlock(&self.mutex)
            if n < 0 or (most or reached == end) and m.generation == generation:
                return done_pieces(p, n, reached, 2 * most - first - second, snap, st)
            cdp_snapshot_unref(snap)
            if m.generation != generation:
                continue
            if not more_pieces(p, &cap, end - start):
                return cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"looking up a fragmented range")
            runs_know = p.heap + cap

    cdef int history(self, const cdp_view *line, uint64_t start, uint64_t end, uint64_t lo, uint64_t hi,
                     cdp_history_row *rows, uint64_t cap, uint64_t *n, bint *more, cdp_status *st) noexcept nogil:
        cdef cdp_tree *trees[2]
        cdef cdp_snapshot *snap
        cdef int of_trees, of_runs
        n[0] = 0
        pthread_mutex_lock(&self.mutex)
        snap = cdp_snapshot_ref(self.snapshot)
        of_trees = cdp_history_of_trees(line, trees, self.trees_of(trees), start, end, lo, min(hi, self.visible_seq),
                                        rows, cap, n)
        pthread_mutex_unlock(&self.mutex)
        of_runs = cdp_history_of_runs(line, snap.runs, snap.n_runs, start, end, max(lo, snap.floor),
                                      rows[n[0] - 1].seq if of_trees else hi, rows, cap, n, st)
        cdp_snapshot_unref(snap)
        more[0] = of_trees or of_runs
        return CDP_OK if of_runs >= 0 else st.code

    cdef int swap_trees(self) noexcept nogil:
        cdef cdp_tree *fresh = cdp_tree_new(self.max_records)
        if fresh == NULL:
            return ENOMEM
        pthread_mutex_lock(&self.mutex)
        self.sealing_tree = self.tree
        self.tree = fresh
        self.generation += 1
        pthread_mutex_unlock(&self.mutex)
        return CDP_OK

    cdef int install(self, const cdp_view *view, cdp_run_ref **runs, uint32_t n_runs,
                     bint drop_sealing_tree) noexcept nogil:
        """The next snapshot; view == NULL or runs == NULL keeps what there is. Made under the lock (a copy of some
        hundred bytes), because a restore and the maintenance thread each change one half."""
        cdef cdp_snapshot *fresh
        cdef cdp_snapshot *old
        cdef cdp_tree *dead = NULL
        pthread_mutex_lock(&self.mutex)
        old = self.snapshot
        if runs == NULL:
            runs = old.run_refs
            n_runs = old.n_runs
        if view == NULL:
            view = &old.view
        fresh = cdp_snapshot_new(view, runs, n_runs, self.floor)
        if fresh != NULL:
            cdp_snapshot_succeed(old, fresh)
            self.snapshot = fresh
            self.generation += 1
            if drop_sealing_tree:
                dead = self.sealing_tree
                self.sealing_tree = NULL
        pthread_mutex_unlock(&self.mutex)
        if fresh == NULL:
            return ENOMEM
        cdp_snapshot_unref(old)
        cdp_tree_free(dead)
        return CDP_OK

    def raise_floor(self, uint64_t seq):
        """From now on the base has what versions up to `seq` would show: new reads do not look at them. Until
        readers_gone(), others do. With the floor that there is: only to tell reads of before from those that follow."""
        cdef int rc
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.floor = max(self.floor, seq)
            pthread_mutex_unlock(&self.mutex)
            rc = self.install(NULL, NULL, 0, False)
        if rc != CDP_OK:
            raise MemoryError()

    def readers_gone(self, uint32_t timeout_ms) -> bool:
        """Wait until every read that began before this call has ended. False where the time was over first."""
        cdef cdp_snapshot *now = self.reference()
        cdef uint64_t until = cdp_monotonic_ms() + timeout_ms
        cdef bint gone
        with nogil:
            gone = cdp_snapshot_is_oldest(now)
            while not gone and cdp_monotonic_ms() < until:
                cdp_nap_us(200)
                gone = cdp_snapshot_is_oldest(now)
            cdp_snapshot_unref(now)
        return bool(gone)

    def position(self):
        """(last_seq, last_ts_ns), of one moment."""
        cdef uint64_t seq, ts
        with nogil:
            pthread_mutex_lock(&self.mutex)
            seq = self.visible_seq
            ts = self.visible_ts_ns
            pthread_mutex_unlock(&self.mutex)
        return seq, ts

    def tree_bytes(self) -> int:
        """Memory of the extent trees."""
        cdef uint64_t n
        with nogil:
            pthread_mutex_lock(&self.mutex)
            n = cdp_tree_bytes(self.tree)
            if self.sealing_tree != NULL:
                n += cdp_tree_bytes(self.sealing_tree)
            pthread_mutex_unlock(&self.mutex)
        return n

    def release(self):
        """Release the runs' mappings. No reader may be inside."""
        with nogil:
            self.install(NULL, self.snapshot.run_refs, 0, False)


cdef bint more_pieces(pieces *p, uint64_t *cap, uint64_t sectors) noexcept nogil:
    """32 times the room, twice; what was found is forgotten."""
    free(p.heap)
    cap[0] = min(cap[0] * 32, sectors + 1)
    p.heap = <cdp_piece *>malloc(2 * cap[0] * sizeof(cdp_piece))
    p.at = p.heap
    return p.heap != NULL


cdef int done_pieces(pieces *p, int64_t n, uint64_t end, uint64_t steps, cdp_snapshot *snap,
                     cdp_status *st) noexcept nogil:
    """The pieces keep the snapshot (NULL: none was asked), but for a failure."""
    p.n = <uint64_t>max(n, 0)
    p.end = end
    p.steps = steps
    p.snapshot = snap
    if n < 0:
        drop(p)
        return st.code
    return CDP_OK

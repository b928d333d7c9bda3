"""What was read and then overwritten in a volume, counted for those who look at it now and then (log/rewrites.h).

Threading: one thread at a time; the GIL is not held for a look at content.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from cdpcore.base.errors cimport check
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.index.view cimport View
from cdpcore.log.rewrites cimport (CDP_REWRITES_BLOCK, CDP_REWRITES_SETS, CDP_WATCHED_ONE_IN, cdp_rewrites,
                                   cdp_rewrites_begin, cdp_rewrites_count, cdp_unevenness, cdp_units_alike)
from cdpcore.volume.core cimport VolumeCore

# Unevenness of a block that may be random, and of one that is not; and so many units, of 256, two versions may share
# by which nothing of the one is left in the other.
RANDOM_MOST, ORDERED_LEAST, ALIKE_MOST = 340, 512, 16
BLOCK_BYTES, ONE_IN = CDP_REWRITES_BLOCK, CDP_WATCHED_ONE_IN
cdef uint64_t c_random_most = RANDOM_MOST, c_ordered_least = ORDERED_LEAST
cdef uint32_t c_alike_most = ALIKE_MOST


cdef class Rewrites:
    """Of an open volume. From here on, until it is closed, they are counted."""
    cdef VolumeCore core

    def __cinit__(self, VolumeCore core not None):
        cdef cdp_rewrites *made
        self.core = core
        if core.log.rewrites == NULL:
            made = <cdp_rewrites *>calloc(1, sizeof(cdp_rewrites))
            if made == NULL:
                raise MemoryError()
            cdp_rewrites_begin(made, 0)
            with nogil:
                core.log.lock_append()
                core.log.rewrites = made        # which frees it
                core.log.unlock_append()

    def take(self, uint32_t tick) -> tuple:
        """What was counted since the last call, and the last record of that: (seq, [(blocks, samples)]), the sets in
        the order of enum cdp_rewrites_set; blocks: watched ones. tick: of the clock by which a read grows old, from now
        on."""
        cdef cdp_rewrites_count counts[CDP_REWRITES_SETS]
        cdef uint64_t seq
        cdef uint32_t i, k
        with nogil:
            self.core.log.lock_append()
            seq = self.core.log.last_seq
            for i in range(CDP_REWRITES_SETS):
                counts[i] = self.core.log.rewrites.counts[i]
            cdp_rewrites_begin(self.core.log.rewrites, tick)
            self.core.log.unlock_append()
        return seq, [(counts[i].n, [counts[i].samples[k] for k in range(counts[i].n_samples)])
                     for i in range(CDP_REWRITES_SETS)]

    def compare(self, View before not None, View after not None, blocks) -> tuple:
        """How the content of blocks changed between two moments: (held, ordered, scrambled, replaced, random). held:
        had data before; ordered: not random data; scrambled: such that became random; replaced: random before and
        after, with nothing left of the one in the other; random: after. Raises as reading does."""
        cdef uint64_t old_words[512]
        cdef uint64_t new_words[512]
        cdef uint8_t *old = <uint8_t *>old_words
        cdef uint8_t *new = <uint8_t *>new_words
        cdef uint64_t n[5]
        cdef uint64_t block, was, became
        cdef cdp_status st
        cdef int rc
        n[0] = n[1] = n[2] = n[3] = n[4] = 0
        for block in blocks:
            if (block + 1) * CDP_REWRITES_BLOCK > self.core.size_bytes:
                continue
            with nogil:
                rc = self.core.read(&before.v, old, block * CDP_REWRITES_BLOCK, CDP_REWRITES_BLOCK, True, &st)
                if rc == CDP_OK:
                    rc = self.core.read(&after.v, new, block * CDP_REWRITES_BLOCK, CDP_REWRITES_BLOCK, True, &st)
                if rc == CDP_OK:
                    was, became = cdp_unevenness(old), cdp_unevenness(new)
                    n[0] += not is_zero(old_words)
                    n[1] += was >= c_ordered_least and not is_zero(old_words)
                    n[4] += became <= c_random_most
                    if became <= c_random_most and cdp_units_alike(old, new) <= c_alike_most:
                        n[2] += was >= c_ordered_least and not is_zero(old_words)
                        n[3] += was <= c_random_most
            check(rc, &st, None)
        return n[0], n[1], n[2], n[3], n[4]


cdef bint is_zero(const uint64_t *words) noexcept nogil:
    cdef uint32_t i
    for i in range(CDP_REWRITES_BLOCK // 8):
        if words[i]:
            return False
    return True

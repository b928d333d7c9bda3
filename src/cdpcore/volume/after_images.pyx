"""The kind of volume whose content is in its log: after-images over a base that changes only where nobody looks.

Write path: CRC of the data (no lock) -> append lock: descriptors and data into the open frame, extent tree -> visible.
The append lock covers one copy of the data (and, where a request does not begin and end on sectors, the read of the
rest of these), so overlapping writes have one serial order: the one that recovery and every image show.

Read path: what is visible (Versions) -> data from the log, or the base, without a lock; what a destructive restore
frees is freed when the reads that began before it have ended.

Threading: any thread, no GIL.
"""
cimport cython
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cdpcore.base.errors cimport check
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.format cimport (CDP_BLOCK, CDP_KIND_TRIM, CDP_KIND_WRITE, CDP_KIND_ZERO, CDP_LOC_BASE, CDP_LOC_HOLE,
                                  CDP_LOC_ZERO, CDP_SECTOR, cdp_loc_is_data)
from cdpcore.base.stages cimport (CDP_FROM_BASE, CDP_STAGE_APPEND, CDP_STAGE_FILE_READ, CDP_STAGE_LOOK_UP,
                                  CDP_STAGE_PUBLISH, cdp_source_add, cdp_stage_add, cdp_stage_add_sampled,
                                  cdp_stage_sampled)
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail_os
from cdpcore.base.target cimport CDP_FUA, CDP_HOLE, cdp_extent
from cdpcore.index.index cimport cdp_piece, cdp_view
from cdpcore.index.versions cimport ALL, drop, pieces
from cdpcore.log.block_sums cimport cdp_read_checked
from cdpcore.log.record cimport MAX_PARTS, ROOM_WRITE, SUMMED, set_data, set_part
from cdpcore.log.sums_cache cimport SegmentSums
from cdpcore.system.os_table cimport CDP_OPEN_RANDOM, CDP_OPEN_RDONLY
from cdpcore.volume.content cimport record_flags
from cdpcore.volume.extents cimport add_extent, add_file, forget_data, free_place, init_place, kind_of

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t table_get(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void table_put(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    uint64_t table_get(const uint64_t *p) noexcept nogil
    void table_put(uint64_t *p, uint64_t v) noexcept nogil


cdef int base_sums(void *ctx, uint64_t block, uint32_t n, uint32_t *out, bint wait, cdp_status *st) noexcept nogil:
    return (<SegmentSums>ctx).find(0, -1, block, n, out, wait, st)


@cython.final
@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class AfterImages(Content):
    """Args, besides those of Content:
        base: path of the base's file; "" where the base is all holes.
        parent, parent_view, parent_pin: for a writable image, instead of base: the core of the volume that it shows, at
            which view, and what keeps that volume open.
    """

    def __cinit__(self, log, segments, *, base: str = "", VolumeCore parent=None, View parent_view=None,
                  parent_pin=None, **_of_content):
        self.base_fd = -1
        init_place(&self.base_data)
        if base:
            self.base_fd = self.open_base(base)
        self.parent = parent
        self.parent_view = parent_view
        self.parent_pin = parent_pin

    def __dealloc__(self):
        if self.base_fd >= 0 and self.table != NULL:
            self.table.close(self.table.ctx, self.base_fd)
        free_place(&self.base_data)

    cdef int open_base(self, str path) except -1:
        cdef cdp_status st
        cdef int fd = self.table.open(self.table.ctx, path.encode(), CDP_OPEN_RDONLY)
        if fd < 0:
            check(cdp_fail_os(&st, fd, 0, b"opening the base"), &st, path)
        return fd

    # --- the write path -----------------------------------------------------------------------------------------------

    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil:
        """Checksums first: the append lock covers one copy of whole sectors and no more."""
        cdef part parts[MAX_PARTS]
        cdef uint32_t sums[SUMMED]
        cdef uint64_t began = 0
        cdef uint32_t n_parts
        cdef int rc
        if buf == NULL:
            return self.zero(off, n, flags, seq, st)
        if off % CDP_SECTOR or n % CDP_SECTOR:
            return self.write_bytes(buf, off, n, flags, seq, st)
        if cdp_stage_sampled(self.stages):
            began = cdp_monotonic_ns()
        n_parts = self.cut(buf, off // CDP_SECTOR, (off + n) // CDP_SECTOR, flags, parts, sums)
        self.log.lock_append()
        rc = self.append_write(parts, n_parts, began, seq, st)
        self.log.unlock_append()
        return rc

    cdef uint32_t cut(self, const uint8_t *buf, uint64_t start, uint64_t end, uint32_t flags, part *parts,
                      uint32_t *sums) noexcept nogil:
        """`sums`: room for SUMMED checksums."""
        cdef uint32_t n = 0, step, summed = 0
        while start < end:
            step = <uint32_t>min(self.part_bytes, (end - start) * CDP_SECTOR)
            if summed + step // CDP_BLOCK <= SUMMED:
                set_data(&parts[n], CDP_KIND_WRITE, record_flags(flags), start, buf, step, sums + summed)
                summed += step // CDP_BLOCK
            else:
                set_part(&parts[n], CDP_KIND_WRITE, record_flags(flags), start, start + step // CDP_SECTOR, buf, step,
                         0)
            start = parts[n].end
            buf += step
            n += 1
        return n

    cdef int append_write(self, part *parts, uint32_t n, uint64_t began, uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef int rc = self.log.append_record(parts, n, ROOM_WRITE, seq, st)
        cdef uint64_t appended = cdp_monotonic_ns() if began else 0
        if rc == CDP_OK:
            self.log.publish(parts, n)
            if began:
                cdp_stage_add_sampled(self.stages, CDP_STAGE_APPEND, appended - began)
                cdp_stage_add_sampled(self.stages, CDP_STAGE_PUBLISH, cdp_monotonic_ns() - appended)
            self.n_writes += 1
            self.bytes_written += (parts[n - 1].end - parts[0].start) * CDP_SECTOR
        return rc

    cdef int write_bytes(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                         cdp_status *st) noexcept nogil:
        """A write that does not begin and end on sectors: the rest of those sectors is read and logged with it, under
        the append lock, so that it is one step in the serial order."""
        cdef uint64_t start = off // CDP_SECTOR, end = (off + n + CDP_SECTOR - 1) // CDP_SECTOR
        cdef uint64_t head = off - start * CDP_SECTOR, whole = (end - start) * CDP_SECTOR
        cdef part parts[MAX_PARTS]
        cdef uint32_t sums[SUMMED]
        cdef uint8_t *merged = <uint8_t *>malloc(whole)
        cdef int rc = CDP_OK
        if merged == NULL:
            return cdp_fail_os(st, -ENOMEM, off, b"merging an unaligned write")
        memcpy(merged + head, buf, n)
        self.log.lock_append()
        if head:
            rc = self.read(NULL, merged, start * CDP_SECTOR, head, True, st)
        if rc == CDP_OK and head + n < whole:
            rc = self.read(NULL, merged + head + n, off + n, whole - head - n, True, st)
        if rc == CDP_OK:
            rc = self.append_write(parts, self.cut(merged, start, end, flags, parts, sums), 0, seq, st)
        self.log.unlock_append()
        free(merged)
        return rc

    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil:
        """One record: whole sectors without data, a sector that is zeroed in part with its new content."""
        cdef uint64_t end = off + n, at = off, stop
        cdef bint hole = (flags & CDP_HOLE) != 0
        cdef uint16_t rec_flags = record_flags(flags & CDP_FUA)
        cdef part parts[3]
        cdef uint8_t edge[3][512]
        cdef uint32_t n_parts = 0
        cdef int rc = CDP_OK
        self.log.lock_append()
        while at < end and rc == CDP_OK:
            if at % CDP_SECTOR == 0 and end - at >= CDP_SECTOR:
                stop = end // CDP_SECTOR * CDP_SECTOR
                set_part(&parts[n_parts], CDP_KIND_TRIM if hole else CDP_KIND_ZERO, rec_flags, at // CDP_SECTOR,
                         stop // CDP_SECTOR, NULL, 0, CDP_LOC_HOLE if hole else CDP_LOC_ZERO)
            else:
                stop = min(end, (at // CDP_SECTOR + 1) * CDP_SECTOR)
                rc = self.read(NULL, edge[n_parts], at // CDP_SECTOR * CDP_SECTOR, CDP_SECTOR, True, st)
                memset(edge[n_parts] + at % CDP_SECTOR, 0, stop - at)
                set_part(&parts[n_parts], CDP_KIND_WRITE, rec_flags, at // CDP_SECTOR, at // CDP_SECTOR + 1,
                         edge[n_parts], CDP_SECTOR, 0)
            n_parts += 1
            at = stop
        if rc == CDP_OK:
            rc = self.log.append_record(parts, n_parts, ROOM_WRITE, seq, st)
        if rc == CDP_OK:
            self.log.publish(parts, n_parts)
            self.n_zeroes += 1
        self.log.unlock_append()
        return rc

    # --- the read path ------------------------------------------------------------------------------------------------

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef cdp_piece *q
        cdef uint64_t i, a, b, began = cdp_monotonic_ns() if cdp_stage_sampled(self.stages) else 0
        cdef int rc = self.versions.resolve(view, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR, ALL, &p,
                                            st)
        if rc != CDP_OK:
            return rc
        if began:
            cdp_stage_add_sampled(self.stages, CDP_STAGE_LOOK_UP, cdp_monotonic_ns() - began)
        for i in range(p.n):
            q = &p.at[i]
            a = max(q.start * CDP_SECTOR, off)
            b = min(q.end * CDP_SECTOR, off + n)
            if q.loc == CDP_LOC_BASE:
                rc = self.read_base(buf + (a - off), a, b - a, wait, st)
            elif cdp_loc_is_data(q.loc):
                rc = self.log_data.read(buf + (a - off), q.loc, a - q.start * CDP_SECTOR, b - a, wait, st)
            else:
                memset(buf + (a - off), 0, b - a)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int read_base(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil:
        cdef int64_t got
        cdef uint64_t ns, table
        cdef int rc
        if self.parent is not None:
            rc = self.parent.read(&self.parent_view.v, buf, off, n, wait, st)
            if rc == CDP_OK:
                cdp_source_add(self.stages, CDP_FROM_BASE, n)
            return rc
        if self.base_fd < 0:
            memset(buf, 0, n)
            return CDP_OK
        table = table_get(&self.base_table)
        while table & 1:
            ns = cdp_monotonic_ns()
            rc = cdp_read_checked(self.table, self.base_fd, buf, n, off, wait, base_sums, <void *>self.log_data.sums,
                                  b"reading the base", st)
            if rc == CDP_OK:
                cdp_source_add(self.stages, CDP_FROM_BASE, n)
                if wait:
                    cdp_stage_add(self.stages, CDP_STAGE_FILE_READ, cdp_monotonic_ns() - ns)
            if rc != CDP_CORRUPT:
                return rc
            if table == table_get(&self.base_table):
                return self.damage.note(0, st)
            table = table_get(&self.base_table)     # data and sums were of two tables: once more, under the one of now
        if wait:
            ns = cdp_monotonic_ns()
            got = self.table.pread(self.table.ctx, self.base_fd, buf, n, off)
            cdp_stage_add(self.stages, CDP_STAGE_FILE_READ, cdp_monotonic_ns() - ns)
        else:
            got = self.table.pread_now(self.table.ctx, self.base_fd, buf, n, off)
            if got == -EAGAIN:
                return CDP_WOULD_WAIT
        if got < 0:
            return cdp_fail_os(st, got, off, b"reading the base")
        memset(buf + got, 0, n - <uint64_t>got)
        cdp_source_add(self.stages, CDP_FROM_BASE, n)
        return CDP_OK

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b
        cdef int rc = self.versions.resolve(view, off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR, most, &p, st)
        if rc != CDP_OK:
            return rc
        out.steps += p.steps
        reached[0] = min(p.end * CDP_SECTOR, end)
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc != CDP_LOC_BASE:
                rc = add_extent(out, a, b, kind_of(p.at[i].loc))
            elif self.parent is None:
                rc = add_file(out, self.table, self.base_fd, &self.base_data, a, b, st)
            else:
                rc = self.map_parent(a, b, out, st)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int map_parent(self, uint64_t a, uint64_t b, extents *out, cdp_status *st) noexcept nogil:
        cdef cdp_extent some[64]
        cdef uint32_t got, i
        cdef int rc = CDP_OK
        while rc == CDP_OK and a < b:
            rc = self.parent.map(&self.parent_view.v, a, b - a, some, min(64u, out.cap - out.n + 1), &got, st)
            if rc != CDP_OK:
                break
            for i in range(got):
                if rc == CDP_OK:
                    a = some[i].offset + some[i].length
                    rc = add_extent(out, some[i].offset, a, some[i].kind)
        return rc

    # --- for Python ---------------------------------------------------------------------------------------------------

    def of_log(self, View view not None, uint64_t offset, uint32_t most):
        """What the log, and not the base, shows from byte `offset` on at `view`: ([(offset, length, kind), ...], end),
        in bytes, in order; kind 0 data, 1 zero, 2 hole. `end` is where the look ended, after some `most` steps. For the
        writer of the base."""
        cdef pieces p
        cdef cdp_status st
        cdef uint64_t i
        cdef int rc
        with nogil:
            rc = self.versions.resolve(&view.v, offset // CDP_SECTOR, self.size_bytes // CDP_SECTOR, most, &p, &st)
        check(rc, &st, None)
        try:
            return [(p.at[i].start * CDP_SECTOR, (p.at[i].end - p.at[i].start) * CDP_SECTOR, kind_of(p.at[i].loc))
                    for i in range(p.n) if p.at[i].loc != CDP_LOC_BASE], p.end * CDP_SECTOR
        finally:
            drop(&p)

    def base_changed(self):
        """The file of the base has other holes than before."""
        forget_data(&self.base_data)

    def check_base(self, path: str) -> bool:
        """Reads of the base are from now on checked against the table in the file `path`; "": not any more. False:
        there is no such file, or it is not valid."""
        cdef int fd
        # Each step releases what was done before it, and a reader acquires: one that has seen bytes which a fold wrote
        # sees that the table of before is gone.
        table_put(&self.base_table, (self.base_table + 1) & ~<uint64_t>1)
        if not path:
            return False
        fd = self.table.open(self.table.ctx, path.encode(), CDP_OPEN_RDONLY | CDP_OPEN_RANDOM)
        if fd < 0 or not self.log_data.sums.set_base(fd):
            return False
        table_put(&self.base_table, self.base_table + 1)
        return True

    def set_base(self, path: str):
        """The base, so far all holes, is from now on the file at `path`, if it is not already. The file is all holes,
        or the volume has no records yet."""
        if self.base_fd < 0:
            self.base_fd = self.open_base(path)     # one store; readers see none or the file

    cpdef release(self):
        Content.release(self)
        if self.base_fd >= 0:
            self.table.close(self.table.ctx, self.base_fd)
            self.base_fd = -1
        self.parent_pin = None

"""Reads a segment file: header, trailer, directory, records; and repairs one that recovery finds without a trailer.

Cold path: opening a volume, resolving a time, the history, checking. Invariant: nothing here writes to the log but
sync(), cut() and seal(), which recovery calls on the file of a segment that a crash left open.

Threading: one thread per object.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_BLOCK, CDP_KIND_BOOKMARK, CDP_KIND_FLUSH, CDP_KIND_FOREIGN, CDP_KIND_TRIM,
                                  CDP_LOC_HOLE, CDP_LOC_UNKNOWN, CDP_LOC_ZERO, CDP_REC_BEFORE, CDP_REC_FUA,
                                  CDP_REC_HOLE, CDP_REC_MORE, CDP_REC_SAME, CDP_SECTOR, CDP_SEGMENT_BEFORE,
                                  CDP_SUMS_PER_PAGE, cdp_frame_entry, cdp_kind_changes, cdp_loc, cdp_record_desc,
                                  cdp_segment_header, cdp_segment_trailer)
from cdpcore.base.status cimport cdp_fail_os, cdp_status
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.index.index cimport (cdp_run_meta, cdp_run_write_tree, cdp_tree, cdp_tree_free, cdp_tree_has_room,
                                  cdp_tree_insert, cdp_tree_new)
from cdpcore.log.block_sums cimport cdp_sums_page_ok, cdp_sums_pages
from cdpcore.log.frame cimport (cdp_frame_reader, cdp_frame_reader_data_ok, cdp_frame_reader_desc,
                                cdp_frame_reader_free, cdp_frame_reader_init, cdp_frame_reader_later_durable,
                                cdp_frame_reader_next)
from cdpcore.log.segment cimport (cdp_segment_header_get, cdp_segment_seal, cdp_segment_trailer_get,
                                  cdp_segment_write_again)
from cdpcore.log.sums_cache cimport cdp_segment_sums
from cdpcore.system.file cimport File
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport CDP_OPEN_RDONLY, CDP_OPEN_RDWR, cdp_os
from cdpcore.system.zero_range cimport cdp_zero_range
from cdpcore.base.errors import Corruption, InvalidRequest, OutOfSpace


cdef enum:
    MAX_PARTS = 64      # descriptors of one record
cdef uint64_t NOW = 0xFFFFFFFFFFFFFFFF


cdef uint64_t location(uint32_t segment, const cdp_record_desc *d) noexcept nogil:
    """What the index says of a descriptor's range."""
    if d.data_bytes:
        return cdp_loc(segment, <uint64_t>d.data_sector * CDP_SECTOR)
    if d.flags & CDP_REC_HOLE or (d.kind == CDP_KIND_TRIM and not d.flags & CDP_REC_BEFORE):
        return CDP_LOC_HOLE
    return CDP_LOC_UNKNOWN if d.kind == CDP_KIND_FOREIGN else CDP_LOC_ZERO


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class SegmentFile:
    """One file log/N.log of the volume `uuid` (None: any volume's).

    Raises Corruption where the header is not valid or belongs to another volume or number; NotFound.
    Attributes: number, volume_uuid, volume_bytes, created_ns, file_bytes, sealed; and where sealed first_seq, last_seq,
    first_ts_ns, last_ts_ns, n_frames. After scan(): the same for an unsealed one, as found, and clock_steps: (seq,
    ts before, ts) of each record whose time is not above that of the one before it in this file.
    """
    cdef Os os
    cdef const cdp_os *table
    cdef readonly object path
    cdef readonly int fd                    # -1: closed
    cdef cdp_segment_header header
    cdef cdp_segment_trailer trailer
    cdef readonly bint sealed
    cdef readonly uint64_t file_bytes
    cdef readonly uint64_t first_seq, last_seq, first_ts_ns, last_ts_ns, flush_seq
    cdef readonly uint32_t n_frames
    cdef readonly uint64_t n_records
    cdef readonly uint64_t end_bytes        # behind the last valid frame
    cdef uint64_t durable_seq               # what the frames that were scanned say was durable
    cdef readonly list clock_steps
    cdef cdp_frame_entry *entries
    cdef uint32_t entries_cap
    cdef uint32_t *block_sums               # of the blocks of frames whose data was verified
    cdef cdp_tree *tree
    cdef cdp_status damage

    def __cinit__(self, Os os not None, path: str, uuid, uint32_t number, bint writable=False):
        cdef cdp_status st
        cdef bytes p = path.encode()
        cdef int64_t rc
        cdef uint8_t block[4096]
        self.fd = -1
        self.clock_steps = []
        self.os = os
        self.table = os.table
        self.path = path
        self.fd = self.table.open(self.table.ctx, p, CDP_OPEN_RDWR if writable else CDP_OPEN_RDONLY)
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening a log segment"), &st, path)
        rc = self.table.size(self.table.ctx, self.fd)
        if rc < 0:
            check(cdp_fail_os(&st, rc, 0, b"size of a log segment"), &st, path)
        self.file_bytes = <uint64_t>rc
        rc = self.table.pread(self.table.ctx, self.fd, block, 4096, 0)
        if rc < 0:
            check(cdp_fail_os(&st, rc, 0, b"reading a segment header"), &st, path)
        if rc != 4096 or not cdp_segment_header_get(block, &self.header):
            raise Corruption(f"{path}: no valid segment header", "run 'cdp check' on the volume")
        if (uuid is not None and self.volume_uuid != uuid) or self.header.segment != number:
            raise Corruption(f"{path}: belongs to another volume or place", "put the volume's own file back")
        if self.file_bytes >= 8192 and self.file_bytes % 4096 == 0:
            rc = self.table.pread(self.table.ctx, self.fd, block, 4096, self.file_bytes - 4096)
            if rc < 0:
                check(cdp_fail_os(&st, rc, self.file_bytes - 4096, b"reading a segment trailer"), &st, path)
            if rc == 4096 and cdp_segment_trailer_get(block, &self.trailer) and \
                    self.trailer.salt == self.header.salt and \
                    self.trailer.segment == number and self.trailer.directory_offset >= 4096 and \
                    self.trailer.directory_offset + self.trailer.n_frames * sizeof(cdp_frame_entry) <= \
                    self.file_bytes - 4096:
                self.sealed = True
                self.first_seq = self.trailer.first_seq
                self.last_seq = self.trailer.last_seq
                self.first_ts_ns = self.trailer.first_ts_ns
                self.last_ts_ns = self.trailer.last_ts_ns
                self.n_frames = self.trailer.n_frames
                self.end_bytes = self.trailer.directory_offset

    def __dealloc__(self):
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
        free(self.entries)
        free(self.block_sums)
        cdp_tree_free(self.tree)

    def close(self):
        """Close the file and free the tree. Idempotent."""
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
            self.fd = -1
        cdp_tree_free(self.tree)
        self.tree = NULL

    @property
    def number(self) -> int:
        return self.header.segment

    @property
    def volume_uuid(self) -> bytes:
        return (<const char *>self.header.volume_uuid)[:16]

    @property
    def volume_bytes(self) -> int:
        return self.header.volume_bytes

    @property
    def created_ns(self) -> int:
        return self.header.created_ns

    def directory(self) -> bytes:
        """The frames of a sealed (or scanned) segment as packed cdp_frame_entry structs. Raises Corruption."""
        cdef int64_t rc
        cdef cdp_status st
        cdef uint64_t n = self.n_frames * sizeof(cdp_frame_entry)
        cdef bytearray out
        cdef uint8_t *p
        if not self.sealed or self.entries != NULL:
            return (<const char *>self.entries)[:n]
        out = bytearray(n)
        if n:
            p = out
            rc = self.table.pread(self.table.ctx, self.fd, p, n, self.trailer.directory_offset)
            if rc < 0:
                check(cdp_fail_os(&st, rc, self.trailer.directory_offset, b"reading a segment directory"), &st,
                      self.path)
            if <uint64_t>rc != n or cdp_crc32c(0, p, n) != self.trailer.directory_crc:
                raise Corruption(f"{self.path}: the directory of frames fails its checksum",
                                 "run 'cdp check' on the volume")
        return bytes(out)

    def scan(self, uint64_t expect_seq, *, bint verify_data, uint32_t tree_records=0, freed=(), uint64_t until=NOW):
        """Walk all frames from the file's start, for recovery, check and rebuild.

        Args: expect_seq: seq of the first record, 0 if not known; verify_data: check every record's data too;
            freed: (after_seq, before_seq, start_sector, end_sector) of destructive restores: data that they freed is
                not verified;
            until: stop at the end of the frame in which this record ends, as at the end of the file;
            tree_records: not 0: build an extent tree for so many records (for write_run).
        Returns a list of events: (kind, seq, ts_ns, start, sectors, data) of bookmarks and restores.
        Stops at the first frame that is not valid; `torn` then says whether the file goes on behind it. A record whose
        last part is missing is not counted: records up to last_seq are whole.
        """
        cdef cdp_frame_reader r
        cdef cdp_status st
        cdef const cdp_record_desc *d
        cdef cdp_record_desc parts[MAX_PARTS]
        cdef uint32_t n_parts = 0, i, k
        cdef uint64_t seq = 0, loc
        cdef int rc
        cdef list events = []
        cdef bint some_freed = len(freed) > 0
        memset(&st, 0, sizeof(st))
        if tree_records:
            self.tree = cdp_tree_new(tree_records)
            if self.tree == NULL:
                raise MemoryError()
        if cdp_frame_reader_init(&r, self.table, self.fd, self.header.segment, self.header.salt,
                                 self.end_bytes if self.sealed else self.file_bytes, expect_seq) != 0:
            raise MemoryError()
        try:
            if verify_data and not some_freed:
                r.sums = self.new_sums()
            self.n_frames = 0
            self.n_records = 0
            self.first_seq, self.last_seq = 1, 0
            self.flush_seq = 0
            self.durable_seq = 0
            self.clock_steps = []
            while (self.last_seq if self.n_records else expect_seq - 1) < until or not expect_seq:
                with nogil:
                    rc = cdp_frame_reader_next(&r, verify_data and not some_freed, &st)
                if rc < 0:
                    check(-rc, &st, self.path)
                if rc == 0:
                    break
                if verify_data and some_freed:
                    seq = r.head.first_seq
                    for i in range(r.head.n_desc):
                        d = cdp_frame_reader_desc(&r, i)
                        if d.data_bytes and not any(a < seq < b and d.start >= lo and d.start + d.sectors <= hi
                                                    for a, b, lo, hi in freed):
                            rc = cdp_frame_reader_data_ok(&r, i, &st)
                            if rc < 0:
                                check(-rc, &st, self.path)
                            if rc == 0:
                                break
                        seq += not (d.flags & CDP_REC_MORE)
                    if rc == 0:
                        r.off = r.frame_off
                        break
                self.note_frame(r.head.first_seq, cdp_frame_reader_desc(&r, 0).ts_ns, r.head.flush_seq, r.frame_off,
                                r.head.n_desc)
                if r.head.flush_seq < r.head.first_seq:
                    self.flush_seq = max(self.flush_seq, r.head.flush_seq)
                self.durable_seq = max(self.durable_seq, r.head.durable_seq)
                seq = r.head.first_seq
                for i in range(r.head.n_desc):
                    d = cdp_frame_reader_desc(&r, i)
                    if cdp_kind_changes(d.kind) and \
                            (d.flags & CDP_REC_BEFORE != 0) != (self.header.flags & CDP_SEGMENT_BEFORE != 0):
                        raise Corruption(f"{self.path}: its header and record #{seq} disagree on whether it keeps "
                                         "before-images", "run 'cdp check' on the volume")
                    if n_parts == MAX_PARTS:
                        raise Corruption(f"{self.path}: a record of more than {MAX_PARTS} parts", "run 'cdp check'")
                    parts[n_parts] = d[0]
                    n_parts += 1
                    if d.flags & CDP_REC_MORE:
                        continue
                    if self.tree != NULL and not cdp_tree_has_room(self.tree, n_parts):
                        raise OutOfSpace(f"{self.path}: more records than a segment may have", "raise max_records")
                    for k in range(n_parts):
                        if parts[k].kind >= CDP_KIND_BOOKMARK and not cdp_kind_changes(parts[k].kind):
                            events.append((parts[k].kind, seq, parts[k].ts_ns, parts[k].start, parts[k].sectors,
                                           self.data_of(&parts[k])))
                        elif cdp_kind_changes(parts[k].kind) and not parts[k].flags & CDP_REC_SAME and \
                                self.tree != NULL:
                            loc = location(self.header.segment, &parts[k])
                            # Parts that lie one behind the other are one extent, as they were when they were written.
                            if k + 1 < n_parts and parts[k].data_bytes and parts[k + 1].data_bytes and \
                                    parts[k].start + parts[k].sectors == parts[k + 1].start and \
                                    parts[k].data_sector + parts[k].sectors == parts[k + 1].data_sector:
                                parts[k + 1].start = parts[k].start
                                parts[k + 1].sectors += parts[k].sectors
                                parts[k + 1].data_sector = parts[k].data_sector
                                continue
                            cdp_tree_insert(self.tree, seq, parts[k].start, parts[k].start + parts[k].sectors, loc)
                    if self.n_records == 0:
                        self.first_seq = seq
                        self.first_ts_ns = d.ts_ns
                    elif d.ts_ns <= self.last_ts_ns:
                        self.clock_steps.append((seq, self.last_ts_ns, d.ts_ns))
                    self.last_seq = seq
                    self.last_ts_ns = d.ts_ns
                    if d.kind == CDP_KIND_FLUSH or d.flags & CDP_REC_FUA:
                        self.flush_seq = seq
                    self.n_records += 1
                    n_parts = 0
                    seq += 1
            self.end_bytes = r.off
            self.damage = st
        finally:
            cdp_frame_reader_free(&r)
        return events

    cdef uint32_t *new_sums(self) except NULL:
        free(self.block_sums)
        self.block_sums = <uint32_t *>calloc(self.file_bytes // CDP_BLOCK + 1, sizeof(uint32_t))
        if self.block_sums == NULL:
            raise MemoryError()
        return self.block_sums

    def undo(self, disk: File, uint64_t after, wrote):
        """After scan() of a segment of before-images: put back what the records after `after` overwrote, the newest
        first, so that the disk holds what it held then. Not synced. May be repeated. Calls `wrote` after each write."""
        cdef const cdp_record_desc *d
        cdef uint64_t seq
        cdef Py_ssize_t n, i
        cdef bytes raw
        cdef const char *p
        for frame in reversed(range(self.n_frames)):
            seq, raw = self.records(<uint64_t>self.entries[frame].offset_blocks * CDP_BLOCK, frame)
            p = raw
            n = len(raw) // sizeof(cdp_record_desc)
            for i in range(n):
                seq += not (<const cdp_record_desc *>p)[i].flags & CDP_REC_MORE
            for i in range(n - 1, -1, -1):
                d = <const cdp_record_desc *>p + i
                seq -= not d.flags & CDP_REC_MORE
                if seq > after and seq <= self.last_seq and cdp_kind_changes(d.kind) and not d.flags & CDP_REC_SAME:
                    self.put_back(disk, d)
                    wrote()
            if seq <= after:
                break

    cdef put_back(self, File disk, const cdp_record_desc *d):
        cdef cdp_status st
        cdef int64_t rc
        cdef uint64_t at = d.start * CDP_SECTOR, n = d.sectors * CDP_SECTOR, step
        cdef uint8_t *buffer
        if d.kind == CDP_KIND_FOREIGN or not d.data_bytes and d.flags & CDP_REC_HOLE and \
                self.table.punch(self.table.ctx, disk.fd, at, n) >= 0:
            return
        step = d.data_bytes if d.data_bytes else min(n, <uint64_t>(4 << 20))
        buffer = <uint8_t *>malloc(step)
        if buffer == NULL:
            raise MemoryError()
        try:
            if d.data_bytes:
                self.read_data(buffer, d, "a before-image")
            with nogil:
                if d.data_bytes:
                    rc = self.table.pwrite(self.table.ctx, disk.fd, buffer, n, at)
                else:
                    rc = cdp_zero_range(self.table, disk.fd, at, n, buffer, step)
            if rc < 0:
                check(cdp_fail_os(&st, rc, at, b"putting a before-image back on the protected disk"), &st, self.path)
        finally:
            free(buffer)

    def complaint(self) -> str:
        """Why the last scan() stopped where it did, if it was at a record that fails its checksum; else ""."""
        if self.damage.where == NULL:
            return ""
        return (f"{self.damage.where.decode()} at byte {self.damage.offset} (expected {self.damage.expected:#x}, "
                f"found {self.damage.actual:#x})")

    def wrong_blocks(self, bint freed=False, uint64_t first_page=0, uint64_t last_page=NOW) -> list:
        """[(offset in bytes, what is wrong)] of the table of checksums of a sealed segment, and of the blocks that do
        not match it, at most 16; [] where there is no table. freed: blocks of zeros may have been freed. first_page,
        last_page (exclusive): of the table, 1023 blocks each."""
        cdef uint64_t n = self.end_bytes // CDP_BLOCK, page, i, k, at
        cdef uint8_t table[4096]
        cdef const uint32_t *sums = <const uint32_t *>table
        cdef uint8_t *blocks, *block
        cdef uint32_t found
        cdef list wrong = []
        if not self.sealed or not self.trailer.sums_offset:
            return wrong
        blocks = <uint8_t *>malloc(CDP_SUMS_PER_PAGE * CDP_BLOCK)
        if blocks == NULL:
            raise MemoryError()
        try:
            for page in range(first_page, min(last_page, cdp_sums_pages(n))):
                at = self.trailer.sums_offset + page * CDP_BLOCK
                self.read_whole(table, CDP_BLOCK, at, "the table of checksums")
                if not cdp_sums_page_ok(table, page, self.header.salt):
                    wrong.append((at, "a page of the table of checksums is damaged"))
                    continue
                at = page * CDP_SUMS_PER_PAGE * CDP_BLOCK
                k = min(<uint64_t>CDP_SUMS_PER_PAGE, n - page * CDP_SUMS_PER_PAGE)
                self.read_whole(blocks, k * CDP_BLOCK, at, "the log")
                for i in range(1 if page == 0 else 0, k):
                    block = blocks + i * CDP_BLOCK
                    found = cdp_crc32c(0, block, CDP_BLOCK)
                    if found != sums[i] and not (freed and cdp_is_zero(block, CDP_BLOCK)):
                        wrong.append((at + i * CDP_BLOCK, "a block does not match its checksum (expected "
                                      f"{sums[i]:#x}, found {found:#x})"))
                if len(wrong) >= 16:
                    break
        finally:
            free(blocks)
        return wrong[:16]

    def ends_whole(self) -> bool:
        """Whether directory and table of a sealed file are as they were written: a power cut may leave the trailer."""
        cdef uint8_t table[4096]
        cdef uint64_t page
        try:
            self.directory()
            for page in range(cdp_sums_pages(self.end_bytes // CDP_BLOCK) if self.trailer.sums_offset else 0):
                self.read_whole(table, CDP_BLOCK, self.trailer.sums_offset + page * CDP_BLOCK, "the table of checksums")
                if not cdp_sums_page_ok(table, page, self.header.salt):
                    return False
            return True
        except Corruption:
            return False

    @property
    def has_table(self) -> bool:
        """Whether the file is sealed and has a table of checksums in it."""
        return self.sealed and self.trailer.sums_offset != 0

    @property
    def salt(self) -> int:
        return self.header.salt

    def sums(self, uint64_t page) -> bytes:
        """The checksums of the blocks of a page, packed, from the frames, which are verified."""
        cdef uint32_t found[1023]
        cdef cdp_status st
        cdef int rc, source
        with nogil:
            rc = cdp_segment_sums(self.table, self.fd, b"", self.header.segment, page, found, &source, &st)
        check(rc, &st, self.path)
        return (<const char *>found)[:sizeof(found)]

    cdef read_whole(self, uint8_t *to, uint64_t n, uint64_t at, str what):
        cdef cdp_status st
        cdef int64_t rc
        with nogil:
            rc = self.table.pread(self.table.ctx, self.fd, to, n, at)
        if rc < 0:
            check(cdp_fail_os(&st, rc, at, b"reading a log segment"), &st, self.path)
        if <uint64_t>rc != n:
            raise Corruption(f"{self.path}: ends inside {what}", "put the file back from a copy")

    def later_durable(self) -> int:
        """After scan() of an unsealed segment: the highest seq that any later valid frame claims was durable; 0:
        none."""
        cdef cdp_frame_reader r
        cdef cdp_status st
        cdef uint64_t seq = 0
        cdef int rc
        if cdp_frame_reader_init(&r, self.table, self.fd, self.header.segment, self.header.salt, self.file_bytes,
                                 0) != 0:
            raise MemoryError()
        r.off = self.end_bytes
        with nogil:
            rc = cdp_frame_reader_later_durable(&r, &seq, &st)
        cdp_frame_reader_free(&r)
        check(rc, &st, self.path)
        return seq

    def records(self, uint64_t offset, uint32_t frame):
        """(first_seq, descriptors) of the frame at byte `offset`: packed cdp_record_desc structs."""
        cdef cdp_frame_reader r
        cdef cdp_status st
        cdef int rc
        cdef uint32_t i
        cdef bytearray out
        cdef uint8_t *p
        if cdp_frame_reader_init(&r, self.table, self.fd, self.header.segment, self.header.salt,
                                 self.end_bytes if self.sealed else self.file_bytes, 0) != 0:
            raise MemoryError()
        try:
            r.off = offset
            r.frame = frame
            rc = cdp_frame_reader_next(&r, 0, &st)
            if rc < 0:
                check(-rc, &st, self.path)
            if rc == 0:
                raise Corruption(f"{self.path}: no valid frame at byte {offset}", "run 'cdp check' on the volume")
            out = bytearray(r.head.n_desc * sizeof(cdp_record_desc))
            p = out
            for i in range(r.head.n_desc):
                memcpy(p + i * sizeof(cdp_record_desc), cdp_frame_reader_desc(&r, i), sizeof(cdp_record_desc))
            return r.head.first_seq, bytes(out)
        finally:
            cdp_frame_reader_free(&r)

    def record_batch(self, uint64_t offset, uint32_t frame, uint32_t n):
        """(seqs, descriptors) of `n` frames, the first of them at byte `offset`: packed uint64 and cdp_record_desc, one
        of each for a descriptor. Without the GIL; 3 us a frame."""
        cdef cdp_frame_reader r
        cdef cdp_status st
        cdef const cdp_record_desc *d
        cdef cdp_record_desc *descs = NULL
        cdef uint64_t *seqs = NULL
        cdef void *grown
        cdef uint64_t seq
        cdef size_t got = 0, cap = 0
        cdef uint32_t i, k
        cdef int rc = 1
        if cdp_frame_reader_init(&r, self.table, self.fd, self.header.segment, self.header.salt,
                                 self.end_bytes if self.sealed else self.file_bytes, 0) != 0:
            raise MemoryError()
        r.off = offset
        r.frame = frame
        try:
            with nogil:
                for k in range(n):
                    rc = cdp_frame_reader_next(&r, 0, &st)
                    if rc != 1:
                        break
                    if got + r.head.n_desc > cap:
                        cap = 2 * cap + r.head.n_desc + 1024
                        grown = realloc(descs, cap * sizeof(cdp_record_desc))
                        if grown == NULL:
                            rc = 2
                            break
                        descs = <cdp_record_desc *>grown
                        grown = realloc(seqs, cap * sizeof(uint64_t))
                        if grown == NULL:
                            rc = 2
                            break
                        seqs = <uint64_t *>grown
                    seq = r.head.first_seq
                    for i in range(r.head.n_desc):
                        d = cdp_frame_reader_desc(&r, i)
                        descs[got] = d[0]
                        seqs[got] = seq
                        got += 1
                        seq += not d.flags & CDP_REC_MORE
            if rc == 2:
                raise MemoryError()
            if rc < 0:
                check(-rc, &st, self.path)
            if rc == 0:
                raise Corruption(f"{self.path}: no valid frame at byte {r.off}", "run 'cdp check' on the volume")
            return ((<const char *>seqs)[:got * sizeof(uint64_t)],
                    (<const char *>descs)[:got * sizeof(cdp_record_desc)])
        finally:
            cdp_frame_reader_free(&r)
            free(descs)
            free(seqs)

    def sync(self):
        """After scan(): what it found is durable at return, also after a sync that failed (cdp_segment_write_again).
        What a sealed file has before its directory, and up to durable_seq, was durable before."""
        cdef cdp_status st
        cdef uint64_t begin = self.end_bytes, end = self.end_bytes
        cdef uint32_t i = 0
        cdef int rc
        if self.sealed:
            begin, end = self.trailer.directory_offset, self.file_bytes
        elif self.n_frames:
            while i + 1 < self.n_frames and self.entries[i + 1].first_seq <= self.durable_seq:
                i += 1
            begin = <uint64_t>self.entries[i].offset_blocks * CDP_BLOCK
        with nogil:
            rc = cdp_segment_write_again(self.table, self.fd, begin, end, &st)
        check(rc, &st, self.path)

    def cut(self):
        """After scan(until=...): cut the file behind the frame where it stopped. Durable before seal() writes there:
        half of that, and later frames behind it, would look like damage."""
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = self.table.truncate(self.table.ctx, self.fd, self.end_bytes)
        if rc < 0:
            check(cdp_fail_os(&st, rc, self.end_bytes, b"cutting a recovered segment"), &st, self.path)
        self.file_bytes = self.end_bytes
        self.sync()

    def seal(self) -> int:
        """After scan(): a sealed file becomes durable. Any file, after scan(verify_data=True), is cut behind its last
        valid frame and gets its directory, its table of checksums and its trailer, durable. Returns its bytes."""
        cdef cdp_status st
        cdef int rc
        if self.sealed and self.end_bytes == self.trailer.directory_offset and self.block_sums == NULL:
            self.sync()         # frames were durable before the trailer was written; it may not be
            return self.file_bytes
        if self.block_sums == NULL:
            raise InvalidRequest(f"{self.path}: sealed without its data being verified")
        self.sync()     # a process that was killed leaves frames that are not on the device yet: they come first
        memset(&self.trailer, 0, sizeof(self.trailer))
        self.trailer.salt = self.header.salt
        self.trailer.segment = self.header.segment
        self.trailer.first_seq = self.first_seq
        self.trailer.last_seq = self.last_seq
        self.trailer.first_ts_ns = self.first_ts_ns
        self.trailer.last_ts_ns = self.last_ts_ns
        with nogil:
            rc = cdp_segment_seal(self.table, self.fd, self.end_bytes, self.entries, self.n_frames, self.block_sums,
                                  &self.trailer, &self.file_bytes, &st)
        check(rc, &st, self.path)
        self.sealed = True
        return self.file_bytes

    def write_run(self, path: str):
        """After scan(tree_records=...): write the segment's run."""
        cdef cdp_run_meta meta
        cdef cdp_status st
        cdef bytes p = path.encode()
        cdef const char *c_path = p
        cdef int rc
        memcpy(meta.uuid, self.header.volume_uuid, 16)
        meta.first_segment = meta.last_segment = self.header.segment
        meta.first_seq = self.first_seq
        meta.last_seq = self.last_seq
        with nogil:
            rc = cdp_run_write_tree(self.table, c_path, &meta, self.tree, &st)
        check(rc, &st, path)

    def punch(self, uint64_t offset, uint64_t length):
        """Free the whole blocks inside a byte range of the file (data that a destructive restore discarded)."""
        cdef uint64_t a = (offset + 4095) // 4096 * 4096, b = (offset + length) // 4096 * 4096
        if b > a:
            with nogil:
                self.table.punch(self.table.ctx, self.fd, a, b - a)     # a hint: where it can't, the space stays used

    cdef note_frame(self, uint64_t first_seq, uint64_t first_ts_ns, uint64_t flush_seq, uint64_t offset,
                    uint32_t n_desc):
        cdef cdp_frame_entry *grown
        cdef cdp_frame_entry *e
        if self.n_frames == self.entries_cap:
            grown = <cdp_frame_entry *>malloc((2 * self.entries_cap + 256) * sizeof(cdp_frame_entry))
            if grown == NULL:
                raise MemoryError()
            if self.entries != NULL:
                memcpy(grown, self.entries, self.n_frames * sizeof(cdp_frame_entry))
                free(self.entries)
            self.entries = grown
            self.entries_cap = 2 * self.entries_cap + 256
        e = &self.entries[self.n_frames]
        e.first_seq = first_seq
        e.first_ts_ns = first_ts_ns
        e.flush_seq = flush_seq
        e.offset_blocks = <uint32_t>(offset // CDP_BLOCK)
        e.n_desc = n_desc
        self.n_frames += 1

    cdef bytes data_of(self, cdp_record_desc *d):
        cdef bytearray out = bytearray(d.data_bytes)
        if d.data_bytes:
            self.read_data(out, d, "a bookmark or restore")
        return bytes(out)

    cdef read_data(self, uint8_t *to, const cdp_record_desc *d, str what):
        """A descriptor's data, checked."""
        cdef cdp_status st
        cdef uint64_t at = <uint64_t>d.data_sector * CDP_SECTOR
        cdef int64_t rc
        with nogil:
            rc = self.table.pread(self.table.ctx, self.fd, to, d.data_bytes, at)
        if rc < 0:
            check(cdp_fail_os(&st, rc, at, b"reading a record's data"), &st, self.path)
        if rc != d.data_bytes or cdp_crc32c(0, to, d.data_bytes) != d.crc:
            raise Corruption(f"{self.path}: {what} fails its checksum at byte {at}", "run 'cdp check' on the volume")

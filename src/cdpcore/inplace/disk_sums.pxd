"""The checksums of the blocks of a protected disk: VOLUME/disk.sums, in step with what is written to the disk."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from cdpcore.base.format cimport CDP_SUMS_PER_PAGE, cdp_sums_header
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.inplace.disk cimport Disk
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef enum:
    LONG_BYTES = 1 << 30    # a range so long is not changed in the table block by block: all behind it is read again


cdef class DiskSums:
    # constant after construction, and after open()
    cdef Os os
    cdef const cdp_os *table
    cdef Disk disk
    cdef uint64_t size_bytes
    cdef uint64_t n_blocks, n_pages
    cdef object path
    cdef int fd
    cdef bint read_only

    # who leads a round of the settler
    cdef cdp_sums_header header     # as it is in the file

    # any thread, without a lock: a hint
    cdef bint on                    # there is a table, and it could be read and written so far
    cdef bint full                  # so much is in memory that it should be written

    cdef pthread_mutex_t mutex      # guards what follows
    cdef uint32_t **pages           # by number; NULL: not in memory
    cdef uint64_t *dirty            # a bit a page: memory has more than the file
    cdef uint64_t *resident         # numbers of the pages in memory, in any order
    cdef uint64_t n_resident, resident_cap, hand
    cdef uint64_t known_pages       # the pages from this one on are not known yet
    cdef uint64_t from_block, to_block      # a change of these is being written to the disk; to <= from: none
    cdef uint64_t changes           # how often began() and put() were called
    cdef uint64_t filling           # the page that is being filled, plus 1; 0: none
    cdef uint8_t touched[CDP_SUMS_PER_PAGE]     # its blocks that were changed meanwhile
    cdef uint64_t writing           # the page that is on its way to the file, plus 1; 0: none
    cdef uint64_t to_scan           # pages from this one on may have blocks that are not known, though the page is
    cdef uint32_t failed            # errno; then it is off

    cpdef close(self)
    cdef int open_file(self, str path, int flags) except -1

    # --- who leads a round: a change of [off, off + n) bytes goes to the disk; it is there, with these checksums of
    # whole blocks; a block that it has in part is read. put() and reread() with `last`: nothing more of it follows.
    cdef void began(self, uint64_t off, uint64_t n) noexcept nogil
    cdef void put(self, uint64_t block, const uint32_t *sums, uint64_t n, bint last) noexcept nogil
    cdef void reread(self, uint64_t block, bint last) noexcept nogil
    # Nothing is known from the page of that block on.
    cdef void unknown_from(self, uint64_t block) noexcept nogil
    # The disk is synced, and disk.state names record `seq`: so does the table, durably, where nothing fails.
    cdef void write(self, uint64_t seq) noexcept nogil

    # --- any thread
    # As Disk.read; CDP_CORRUPT where it is not what the table says.
    cdef int read_checked(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil
    cdef int find(self, uint64_t block, uint32_t n, uint32_t *out, bint wait) noexcept nogil

    # --- internal
    cdef uint32_t *page_at(self, uint64_t page) noexcept nogil
    cdef void evict(self) noexcept nogil
    cdef void set_dirty(self, uint64_t page) noexcept nogil
    cdef void fail(self, int64_t rc) noexcept nogil
    cdef bint is_hole(self, int fd, uint64_t off, uint64_t n) noexcept nogil
    cdef bint pass_holes(self, uint64_t *budget) noexcept nogil
    cdef bint pass_known(self, uint64_t page, uint64_t *budget) noexcept nogil
    cdef int64_t fill_page(self, uint64_t page) noexcept nogil
    cdef bint next_to_fill(self, uint64_t *page, bint *new) noexcept nogil
    cdef bint lacks_some(self) noexcept nogil
    cdef int sum_blocks(self, uint64_t first, uint32_t n, const uint8_t *want, uint8_t *buffer,
                        uint32_t *out) noexcept nogil

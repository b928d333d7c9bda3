"""A table of block checksums in a file of its own: made beside a file that does not contain one, and compared with it.

It is for base.img, and for segments that were sealed without a table. Cold path.

    header 4096 | pages, as in a segment

Invariant: a page that is zeros says that all its blocks read as zeros; so a table is as sparse as its file.

Threading: one thread per object.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.format cimport CDP_BLOCK, CDP_SUMS_PER_PAGE
from cdpcore.log.block_sums cimport (cdp_sums_header, cdp_sums_header_get, cdp_sums_header_put, cdp_sums_load,
                                     cdp_sums_page_ok, cdp_sums_pages, cdp_sums_put, cdp_sums_zeros)
from cdpcore.system.file cimport File
from cdpcore.base.errors import InvalidRequest


cdef class SumsWriter:
    """Args: table: the file to fill, empty; uuid: of the volume, 16 bytes; segment: number of the log file that it is
    for, 0: the base; salt: of that log file; of the base any random number; data: the file that it is for, where put()
    is used."""
    cdef File table, data
    cdef cdp_sums_header header
    cdef uint64_t page              # that is in memory, counted from 1; 0: none
    cdef uint32_t sums[1023]

    def __cinit__(self, File table not None, bytes uuid, uint32_t segment, uint64_t salt, File data=None):
        if len(uuid) != 16:
            raise InvalidRequest("a volume's uuid has 16 bytes")
        self.table, self.data = table, data
        memset(&self.header, 0, sizeof(self.header))
        memcpy(self.header.volume_uuid, <const uint8_t *><char *>uuid, 16)
        self.header.segment = segment
        self.header.salt = salt

    def put(self, uint64_t offset, data):
        """`data` was written at `offset`, in bytes. Blocks that it has in part are read from the file."""
        cdef const uint8_t[::1] view = data
        cdef uint64_t end = offset + <uint64_t>view.shape[0], at = offset // CDP_BLOCK * CDP_BLOCK
        cdef uint32_t crc
        cdef bytes block
        while at < end:
            if at >= offset and at + CDP_BLOCK <= end:
                crc = cdp_crc32c(0, &view[at - offset], CDP_BLOCK)
            else:
                block = self.data.pread(CDP_BLOCK, at).ljust(CDP_BLOCK, b"\0")
                crc = cdp_crc32c(0, <const uint8_t *><const char *>block, CDP_BLOCK)
            self.turn_to(at // CDP_BLOCK // CDP_SUMS_PER_PAGE + 1)
            self.sums[at // CDP_BLOCK % CDP_SUMS_PER_PAGE] = crc
            at += CDP_BLOCK

    def put_page(self, uint64_t page, bytes sums):
        """1023 checksums, packed: those of page `page`, counted from 0."""
        self.turn_to(page + 1)
        memcpy(self.sums, <const char *>sums, min(<size_t>len(sums), sizeof(self.sums)))

    cdef turn_to(self, uint64_t page):
        cdef bytes old
        if page == self.page:
            return
        self.put_out()
        cdp_sums_zeros(self.sums)
        if page:
            old = self.table.pread(CDP_BLOCK, page * CDP_BLOCK)
            if len(old) == CDP_BLOCK and cdp_sums_page_ok(<const uint8_t *><const char *>old, page - 1,
                                                          self.header.salt):
                memcpy(self.sums, <const char *>old, sizeof(self.sums))
        self.page = page

    cdef put_out(self):
        cdef bytearray block = bytearray(CDP_BLOCK)
        if self.page:
            cdp_sums_put(<uint8_t *><char *>block, self.sums, CDP_SUMS_PER_PAGE, self.header.salt, self.page - 1)
            self.table.pwrite(block, self.page * CDP_BLOCK)

    def finish(self, uint64_t size_bytes):
        """Of a file of so many bytes: complete and durable at return."""
        cdef bytearray block = bytearray(CDP_BLOCK)
        self.turn_to(0)
        self.header.n_blocks = (size_bytes + CDP_BLOCK - 1) // CDP_BLOCK
        self.table.truncate((1 + cdp_sums_pages(self.header.n_blocks)) * CDP_BLOCK)
        cdp_sums_header_put(<uint8_t *><char *>block, &self.header)
        self.table.pwrite(block, 0)
        self.table.datasync()


def wrong_blocks(File data not None, File table not None, bytes uuid, uint32_t segment, uint64_t first_page=0,
                 uint64_t last_page=0xFFFFFFFFFFFFFFFF) -> list:
    """[(offset in bytes, what is wrong)] where `table` is damaged or `data` does not match it; at most 16. Only where
    the data file has data is it read. first_page, last_page (exclusive): of the table, 1023 blocks each."""
    cdef cdp_sums_header h
    cdef uint32_t sums[1023]
    cdef uint32_t zeros[1023]
    cdef uint32_t found
    cdef uint64_t at = 0, stop, page, block
    cdef bytes head = table.pread(CDP_BLOCK, 0).ljust(CDP_BLOCK, b"\0"), piece
    cdef list wrong = []
    if not cdp_sums_header_get(<const uint8_t *><const char *>head, &h) or h.segment != segment or \
            (<const char *>h.volume_uuid)[:16] != uuid:
        return [(0, "the header of the table of checksums is not valid, or another file's")]
    for page in range(first_page, min(last_page, cdp_sums_pages(h.n_blocks))):
        if not cdp_sums_load(table.table, table.fd, &h, page, sums):
            wrong.append(((page + 1) * CDP_BLOCK, "a page of the table of checksums is damaged"))
            continue
        at, stop = page * CDP_SUMS_PER_PAGE * CDP_BLOCK, (page + 1) * CDP_SUMS_PER_PAGE * CDP_BLOCK
        extent = data.next_data(at)
        if extent is None or extent[0] >= stop:
            cdp_sums_zeros(zeros)
            if memcmp(sums, zeros, sizeof(zeros)):
                wrong.append((at, "a hole, where there was data"))
            continue
        piece = data.pread(stop - at, at).ljust(stop - at, b"\0")
        for block in range(CDP_SUMS_PER_PAGE):
            found = cdp_crc32c(0, <const uint8_t *><const char *>piece + block * CDP_BLOCK, CDP_BLOCK)
            if found != sums[block]:
                wrong.append((at + block * CDP_BLOCK, "a block does not match its checksum (expected "
                              f"{sums[block]:#x}, found {found:#x})"))
        if len(wrong) >= 16:
            break
    return wrong[:16]

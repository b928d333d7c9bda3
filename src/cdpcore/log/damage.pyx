"""Blocks of the log, the base and the protected disk that did not match their checksums: the first MAX_DAMAGE, in the
order of their discovery, and how many reads were refused for any.

Threading: any thread; note() without the GIL.
"""
from libc.stdio cimport snprintf
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock


cdef class Damage:
    """Of one volume, since it was opened."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef int note(self, uint32_t number, cdp_status *st) noexcept nogil:
        cdef damaged_block *b
        cdef uint32_t i
        pthread_mutex_lock(&self.mutex)
        self.refused += 1
        for i in range(self.n):
            b = &self.blocks[i]
            if b.number == number and b.offset == st.offset:
                st.where = b.text
                pthread_mutex_unlock(&self.mutex)
                return st.code
        if self.n < MAX_DAMAGE:
            b = &self.blocks[self.n]
            b.number = number
            b.offset = st.offset
            b.expected = st.expected
            b.found = st.actual
            if number == THE_DISK:
                snprintf(b.text, sizeof(b.text), b"the protected disk: a block does not match its checksum")
            elif number:
                snprintf(b.text, sizeof(b.text), b"log/%010u.log: a block does not match its checksum", number)
            else:
                snprintf(b.text, sizeof(b.text), b"base.img: a block does not match its checksum")
            st.where = b.text
            self.n += 1
        pthread_mutex_unlock(&self.mutex)
        return st.code

    def blocks_from(self, uint32_t first) -> list:
        """[(segment, 0: the base, 2^32 - 1: the disk; offset in bytes; checksum expected; found)] of those found
        after `first` others."""
        cdef uint32_t n, i
        with nogil:
            pthread_mutex_lock(&self.mutex)
            n = self.n
            pthread_mutex_unlock(&self.mutex)
        return [(self.blocks[i].number, self.blocks[i].offset, self.blocks[i].expected, self.blocks[i].found)
                for i in range(first, n)]

    def stats(self) -> dict:
        """damaged_blocks: how many are known; refused_reads: how many reads found one."""
        return {"damaged_blocks": self.n, "refused_reads": self.refused}

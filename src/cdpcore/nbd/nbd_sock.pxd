"""What an NBD connection's loop asks of the system (nbd/nbd_sock.h)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.uio cimport iovec


cdef extern from "nbd/nbd_sock.h" nogil:
    int NBD_RELEASES_PAGES
    void nbd_add(uint64_t *p, uint64_t n)
    uint64_t nbd_get(const uint64_t *p)
    int nbd_flag(const int *p)
    int nbd_raise_flag(int *p)
    void nbd_raise(int *p, int v)
    int64_t nbd_now_ns()
    void nbd_doze(int *dozing)
    void nbd_ring(int bell)
    void nbd_rouse(int *dozing, int bell)
    void nbd_sleep(int fd, int bell)
    void nbd_awake(int *dozing)
    int nbd_more(int fd)
    void nbd_pause()
    void nbd_enter(int *inside)
    void nbd_leave(int *inside)

    int nbd_wait(int fd, int bell, int ms)
    int nbd_poll(int fd, int out, int ms)
    ssize_t nbd_recv(int fd, int bell, void *p, size_t n, int64_t spin_ns, int64_t *began_ns)
    int nbd_send(int fd, iovec *v, uint32_t n, uint64_t *sent_bytes)
    void nbd_release(void *p, uint64_t n)

    # what it includes
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int POLLOUT
    ssize_t c_send "send"(int, const void *, size_t, int)
    int SHUT_RDWR
    ssize_t c_recv "recv"(int, void *, size_t, int)
    int shutdown(int, int)
    int sched_yield()

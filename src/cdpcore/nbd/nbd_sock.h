/* What an NBD connection's loop asks of the system: receiving, sending, waiting, the clock, giving pages back, and
 * words that one thread writes and others read. POSIX but for nbd_release. */
#ifndef CDP_NBD_SOCK_H
#define CDP_NBD_SOCK_H
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE anyway */
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* One writer, many readers; each word is read whole. */
static inline void nbd_add(uint64_t *p, uint64_t n)
{
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint64_t nbd_get(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline int nbd_flag(const int *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* What it was before. */
static inline int nbd_raise_flag(int *p)
{
    return __atomic_exchange_n(p, 1, __ATOMIC_ACQ_REL);
}

/* *p becomes v where that is more. */
static inline void nbd_raise(int *p, int v)
{
    int old = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

static inline int64_t nbd_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* recv that gives way for a moment before it sleeps. The client is most often about to send: the payload that belongs
 * to a header, the next request at depth 1, more requests of a deep queue. Where it shares this CPU the yield lets it,
 * and the batch grows; where it runs on another one it need not pay for waking us. Measured with fio at depth 32 on two
 * loaded CPUs: 4 KiB writes 115 k/s without, 160 k/s with it; reads 103 k/s and 160 k/s.
 * -1 with EINTR after the bell (-1: none) became readable, which is emptied.
 * *began_ns: of the recv that returned; 0: it slept. */
static inline ssize_t nbd_recv(int fd, int bell, void *p, size_t n, int64_t spin_ns, int64_t *began_ns)
{
    int64_t until;
    *began_ns = nbd_now_ns();
    until = *began_ns + spin_ns;
    do {
        ssize_t got = recv(fd, p, n, MSG_DONTWAIT);
        if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            return got;
        sched_yield();
        *began_ns = nbd_now_ns();
    } while (*began_ns < until);
    *began_ns = 0;
    if (bell < 0)
        return recv(fd, p, n, 0);
    struct pollfd w[2] = {{.fd = fd, .events = POLLIN}, {.fd = bell, .events = POLLIN}};
    if (poll(w, 2, -1) > 0 && w[1].revents) {
        char some[64];
        ssize_t got = read(bell, some, sizeof some);
        (void)got;
    }
    if (w[0].revents)
        return recv(fd, p, n, 0);
    errno = EINTR;
    return -1;
}

#define NBD_SEND_BYTES ((size_t)1 << 20)

/* Send all of it, blocking; the vector is used up, *sent_bytes grows. 0, or -1. One piece takes send(), which costs
 * less; one that is long is sent in several, so that others see that the client takes them. */
static inline int nbd_send(int fd, struct iovec *v, uint32_t n, uint64_t *sent_bytes)
{
    while (n) {
        struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
        size_t first = v->iov_len < NBD_SEND_BYTES ? v->iov_len : NBD_SEND_BYTES;
        ssize_t sent = n == 1 || first == NBD_SEND_BYTES ? send(fd, v->iov_base, first, MSG_NOSIGNAL)
                                                         : sendmsg(fd, &m, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        nbd_add(sent_bytes, (uint64_t)sent);
        while (n && (size_t)sent >= v->iov_len)
            sent -= (ssize_t)v++->iov_len, n--;
        if (n)
            v->iov_base = (char *)v->iov_base + sent, v->iov_len -= (size_t)sent;
    }
    return 0;
}

/* 1: readable, hung up, interrupted, or the bell (-1: none) rang; 0: nothing within ms. */
static inline int nbd_wait(int fd, int bell, int ms)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = bell, .events = POLLIN}};
    return poll(p, 2, ms) != 0;
}

/* For one who sleeps until others have pushed something on a stack: nbd_doze, look whether it is still empty,
 * nbd_sleep, nbd_awake. For those who push: push, nbd_rouse. One of the two sees what the other did. */
static inline void nbd_doze(int *dozing) { __atomic_store_n(dozing, 1, __ATOMIC_SEQ_CST); }

static inline void nbd_ring(int bell)
{
    ssize_t n = write(bell, "", 1);
    (void)n; /* a full pipe rouses all the same */
}

static inline void nbd_rouse(int *dozing, int bell)
{
    if (__atomic_exchange_n(dozing, 0, __ATOMIC_SEQ_CST))
        nbd_ring(bell);
}

/* Until `fd` is readable or hung up (-1: not looked at), or the bell rings; empties the bell's pipe. */
static inline void nbd_sleep(int fd, int bell)
{
    char some[64];
    struct pollfd p[2] = {{.fd = bell, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    if (poll(p, fd < 0 ? 1 : 2, -1) > 0 && p[0].revents) {
        ssize_t n = read(bell, some, sizeof some);
        (void)n;
    }
}

static inline void nbd_awake(int *dozing) { __atomic_store_n(dozing, 0, __ATOMIC_SEQ_CST); }

/* More was received, or the client hung up. */
static inline int nbd_more(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static inline void nbd_pause(void)
{
    struct timespec t = {0, 100000};
    nanosleep(&t, NULL);
}

static inline void nbd_enter(int *inside) { __atomic_fetch_add(inside, 1, __ATOMIC_RELAXED); }
static inline void nbd_leave(int *inside) { __atomic_fetch_sub(inside, 1, __ATOMIC_RELEASE); }

/* Sleep until readable, or with `out` writable: what (POLL*); 0: nothing within ms; -1: interrupted. */
static inline int nbd_poll(int fd, int out, int ms)
{
    struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (out ? POLLOUT : 0))};
    int n = poll(&p, 1, ms);
    return n > 0 ? p.revents : n;
}

#if defined(MADV_DONTNEED) && !defined(CDP_PLAIN_POSIX)
#define NBD_RELEASES_PAGES 1
#else
#define NBD_RELEASES_PAGES 0 /* POSIX has no such call: a range stays resident up to its own size */
#endif

/* Pages of a private anonymous range go back to the system and read as zeros afterwards. */
static inline void nbd_release(void *p, uint64_t n)
{
#if NBD_RELEASES_PAGES
    madvise(p, n, MADV_DONTNEED);
#else
    (void)p, (void)n;
#endif
}
#endif

/* What a gateway's connection asks of the system: sending what was gathered, waiting for any of three, and two words that other
 * threads change. POSIX. */
#ifndef CDP_GATE_SOCK_H
#define CDP_GATE_SOCK_H
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE anyway */
#endif

/* All of it, blocking; the vector is used up. Bytes sent, or -1. */
static inline ssize_t gate_send(int fd, struct iovec *v, uint32_t n)
{
    ssize_t all = 0;
    while (n) {
        struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
        ssize_t sent = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        all += sent;
        while (n && (size_t)sent >= v->iov_len)
            sent -= (ssize_t)v++->iov_len, n--;
        if (n)
            v->iov_base = (char *)v->iov_base + sent, v->iov_len -= (size_t)sent;
    }
    return all;
}

static inline int gate_swap(int *p, int v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }

/* *p becomes v where that is more. */
static inline void gate_raise(int *p, int v)
{
    int old = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

enum { GATE_SOCK = 1, GATE_DOOR = 2, GATE_WAKE = 4 };

/* Sleep until one of them has something (or hung up); -1: not that one. Which. */
static inline uint32_t gate_poll(int sock, int door, int wake)
{
    struct pollfd p[3] = {{.fd = sock, .events = POLLIN}, {.fd = door, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
    if (poll(p, 3, -1) < 0)
        return 0;
    return (p[0].revents ? GATE_SOCK : 0u) | (p[1].revents ? GATE_DOOR : 0u) | (p[2].revents ? GATE_WAKE : 0u);
}
#endif

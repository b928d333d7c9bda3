#include "nbd/nbd_memory.h"
#include "nbd/nbd_sock.h"

void nbd_memory_init(nbd_memory *m, uint64_t limit_bytes, uint32_t pace_ms)
{
    *m = (nbd_memory){.limit_bytes = limit_bytes < NBD_MEMORY_LEAST_BYTES ? NBD_MEMORY_LEAST_BYTES : limit_bytes,
                      .pace_ns = pace_ms * 1000000ll};
    pthread_mutex_init(&m->lock, NULL);
}

void nbd_memory_destroy(nbd_memory *m) { pthread_mutex_destroy(&m->lock); }

static void add(uint64_t *p, uint64_t n) { nbd_add(p, n); }

static void begin_look(nbd_claim *c, int64_t now_ns)
{
    c->seen_bytes = nbd_get(c->received_bytes) + nbd_get(c->sent_bytes);
    c->seen_ns = now_ns;
}

/* lock held */
static void take(nbd_memory *m, nbd_claim *c, uint64_t n)
{
    if (!c->held_bytes) {
        c->prev = NULL;
        c->next = m->holders;
        if (m->holders)
            m->holders->prev = c;
        m->holders = c;
        begin_look(c, nbd_now_ns());
    }
    c->held_bytes += n;
    add(&m->used_bytes, n);
    if (m->used_bytes > m->most_bytes)
        __atomic_store_n(&m->most_bytes, m->used_bytes, __ATOMIC_RELAXED);
}

/* lock held */
static void step_out(nbd_memory *m, nbd_claim *before, nbd_claim *c)
{
    if (before)
        before->after = c->after;
    else
        m->first = c->after;
    if (m->last == c)
        m->last = before;
    c->after = NULL;
    __atomic_store_n(&m->waiting, m->waiting - 1, __ATOMIC_RELAXED);
}

/* lock held */
static void serve(nbd_memory *m)
{
    nbd_claim *c;
    /* Where nobody has any it is enough: more than the bound was asked for, which the least bound rules out. */
    while ((c = m->first) && (m->used_bytes + c->wanted_bytes <= m->limit_bytes || !m->used_bytes)) {
        step_out(m, NULL, c);
        take(m, c, c->wanted_bytes);
        __atomic_store_n(&c->granted, 1, __ATOMIC_RELEASE);
        if (c->bell >= 0)
            nbd_ring(c->bell);
    }
}

int nbd_memory_try(nbd_memory *m, nbd_claim *c, uint64_t n)
{
    pthread_mutex_lock(&m->lock);
    int can = !m->first && m->used_bytes + n <= m->limit_bytes;
    if (can)
        take(m, c, n);
    pthread_mutex_unlock(&m->lock);
    return can;
}

void nbd_memory_force(nbd_memory *m, nbd_claim *c, uint64_t n)
{
    pthread_mutex_lock(&m->lock);
    take(m, c, n);
    pthread_mutex_unlock(&m->lock);
}

void nbd_memory_give(nbd_memory *m, nbd_claim *c, uint64_t n)
{
    pthread_mutex_lock(&m->lock);
    if (!n)
        n = c->held_bytes;
    if (n) {
        c->held_bytes -= n;
        __atomic_store_n(&m->used_bytes, m->used_bytes - n, __ATOMIC_RELAXED);
        if (!c->held_bytes) {
            if (c->next)
                c->next->prev = c->prev;
            if (c->prev)
                c->prev->next = c->next;
            else
                m->holders = c->next;
        }
        serve(m);
    }
    pthread_mutex_unlock(&m->lock);
}

void nbd_memory_queue(nbd_memory *m, nbd_claim *c, uint64_t n)
{
    pthread_mutex_lock(&m->lock);
    c->wanted_bytes = n;
    c->granted = 0;
    c->after = NULL;
    if (m->last)
        m->last->after = c;
    else {
        m->first = c;
        m->looked_ns = nbd_now_ns();
        for (nbd_claim *h = m->holders; h; h = h->next)
            begin_look(h, m->looked_ns); /* what they did before was nobody's loss */
    }
    m->last = c;
    __atomic_store_n(&m->waiting, m->waiting + 1, __ATOMIC_RELAXED);
    add(&m->waits, 1);
    serve(m);
    pthread_mutex_unlock(&m->lock);
}

int nbd_memory_leave(nbd_memory *m, nbd_claim *c)
{
    nbd_claim *before = NULL, *w;
    pthread_mutex_lock(&m->lock);
    for (w = m->first; w && w != c; w = w->after)
        before = w;
    if (w) {
        step_out(m, before, c);
        serve(m); /* who stood behind it may want less */
    }
    pthread_mutex_unlock(&m->lock);
    return w != NULL;
}

/* Cut off those who hold others up. */
static void look(nbd_memory *m)
{
    int64_t now_ns = nbd_now_ns();
    pthread_mutex_lock(&m->lock);
    if (now_ns - m->looked_ns >= NBD_MEMORY_LOOK_MS * 1000000ll) {
        m->looked_ns = now_ns;
        for (nbd_claim *h = m->holders; h; h = h->next) {
            uint64_t moved = nbd_get(h->received_bytes) + nbd_get(h->sent_bytes);
            if (!nbd_claim_flag(&h->on_client) || moved - h->seen_bytes >= NBD_MEMORY_PACE_BYTES)
                begin_look(h, now_ns);
            else if (now_ns - h->seen_ns >= m->pace_ns && !h->cut) {
                __atomic_store_n(&h->cut, 1, __ATOMIC_RELEASE);
                add(&m->cuts, 1);
                shutdown(h->fd, SHUT_RDWR);
            }
        }
    }
    pthread_mutex_unlock(&m->lock);
}

static void empty(int bell)
{
    char some[64];
    ssize_t got = read(bell, some, sizeof some);
    (void)got;
}

int nbd_memory_doze(nbd_memory *m, nbd_claim *c, int bell)
{
    struct pollfd p[2] = {{.fd = c->fd}, {.fd = bell, .events = POLLIN}};
    int n = poll(p, 2, bell < 0 ? 10 : NBD_MEMORY_LOOK_MS);
    if (n > 0 && p[1].revents)
        empty(bell);
    look(m);
    return n > 0 && p[0].revents & (POLLHUP | POLLERR | POLLNVAL);
}

void nbd_memory_hush(nbd_memory *m, int bell)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    pthread_mutex_lock(&m->lock); /* serve() rings after it has granted, under the lock */
    pthread_mutex_unlock(&m->lock);
    if (bell >= 0 && poll(&p, 1, 0) > 0)
        empty(bell);
}

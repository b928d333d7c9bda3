/* The parts of the OS table that Python does not reach (maps, pages, random bytes, raw handles), on both twins.
 * test_osapi.py compiles it with the table's sources and runs it with the name of an empty directory, and how many rounds
 * a queue makes. */
#include "system/os_sim.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(x)                                                                \
    do {                                                                        \
        if (!(x)) {                                                             \
            fprintf(stderr, "%s: line %d: %s\n", twin, __LINE__, #x);           \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

static const char *twin;

static int make(const cdp_os *o, const char *dir, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", dir, name);
    return o->open(o->ctx, path, CDP_OPEN_RDWR | CDP_OPEN_CREATE);
}

static void check_memory(const cdp_os *o)
{
    const uint64_t sizes[] = {1, 4096, 5000, 1 << 20, 2 << 20, (2 << 20) + 1, 9 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = o->pages(o->ctx, sizes[i]);
        CHECK(p != NULL);
        CHECK((uintptr_t)p % (sizes[i] >= 2 << 20 ? 2 << 20 : CDP_DIRECT_ALIGN) == 0);
        for (uint64_t j = 0; j < sizes[i]; j++)
            CHECK(p[j] == 0);
        memset(p, 0xff, sizes[i]);
        o->free_pages(o->ctx, p, sizes[i]);
    }
    CHECK(o->pages(o->ctx, 0) == NULL);
    CHECK(o->pages(o->ctx, UINT64_MAX) == NULL);

    unsigned char a[257] = {0}, b[257] = {0};
    CHECK(o->random(o->ctx, a, 256) == 0 && o->random(o->ctx, b, 256) == 0);
    CHECK(memcmp(a, b, 256) != 0);
    CHECK(a[256] == 0);
    CHECK(o->random(o->ctx, a, 0) == 0);
    CHECK(o->random(o->ctx, a, 257) == -EINVAL);
}

static void check_maps(const cdp_os *o, const char *dir)
{
    char path[4096], *a = NULL, *b = NULL;
    int fd = make(o, dir, "map", path);
    CHECK(fd > 0);
    CHECK(o->map(o->ctx, fd, 1, (void **)&a) == -EINVAL);
    CHECK(o->pwrite(o->ctx, fd, "0123456789", 10, 4093) == 10);
    CHECK(o->map(o->ctx, fd, 4103, (void **)&a) == 0);
    CHECK(o->map(o->ctx, fd, 4097, (void **)&b) == 0);
    CHECK(a != b && a[0] == 0 && memcmp(a + 4093, "0123456789", 10) == 0 && memcmp(b + 4093, "0123", 4) == 0);
    CHECK(o->map(o->ctx, fd, 0, (void **)&a) == -EINVAL);
    CHECK(o->map(o->ctx, fd, 4104, (void **)&a) == -EINVAL);
    CHECK(o->close(o->ctx, fd) == 0);
    CHECK(o->unlink(o->ctx, path) == 0);
    CHECK(memcmp(a + 4093, "0123456789", 10) == 0);
    CHECK(o->unmap(o->ctx, a, 4103) == 0);
    CHECK(o->unmap(o->ctx, b, 4097) == 0);
}

static void check_handles(const cdp_os *o, const char *dir)
{
    char path[4096], names[64];
    int fd = make(o, dir, "handle", path);
    CHECK(fd > 0);
    CHECK(make(o, dir, "handle", path) == -EEXIST);
    CHECK(o->open(o->ctx, path, 1u << 31) == -EINVAL);
    CHECK(o->list_dir(o->ctx, dir, names, 0) == 7);
    CHECK(o->list_dir(o->ctx, dir, names, 6) == 7);
    CHECK(o->list_dir(o->ctx, dir, names, 7) == 7 && memcmp(names, "handle", 7) == 0);
    CHECK(o->close(o->ctx, fd) == 0);
    CHECK(o->close(o->ctx, fd) == -EBADF);
    char c;
    CHECK(o->pread(o->ctx, fd, &c, 1, 0) == -EBADF);
    CHECK(o->size(o->ctx, fd) == -EBADF);
    CHECK(o->datasync(o->ctx, fd) == -EBADF);
    CHECK(o->lock(o->ctx, -1) == -EBADF);
    CHECK(o->unlink(o->ctx, path) == 0);
}

struct job {
    const cdp_os *os;
    int fd;
    unsigned char id;
};

static void *write_own_blocks(void *arg)
{
    const struct job *j = arg;
    unsigned char block[4096], back[4096];
    memset(block, j->id, sizeof block);
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t off = (i * 4 + j->id) * sizeof block;
        CHECK(j->os->pwrite(j->os->ctx, j->fd, block, sizeof block, off) == sizeof block);
        if (i % 50 == 0)
            CHECK(j->os->datasync(j->os->ctx, j->fd) == 0);
        CHECK(j->os->pread(j->os->ctx, j->fd, back, sizeof back, off) == sizeof back);
        CHECK(memcmp(block, back, sizeof back) == 0);
    }
    return NULL;
}

static void check_threads(const cdp_os *o, const char *dir)
{
    char path[4096];
    pthread_t threads[4];
    struct job jobs[4];
    int fd = make(o, dir, "threads", path);
    CHECK(fd > 0);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct job){o, fd, (unsigned char)i};
        CHECK(pthread_create(&threads[i], NULL, write_own_blocks, &jobs[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(o->size(o->ctx, fd) == 800 * 4096);
    CHECK(o->close(o->ctx, fd) == 0);
    CHECK(o->unlink(o->ctx, path) == 0);
}

#define IN_FLIGHT 16u

static unsigned rounds;

/* For who would ask again and again: the processor is for the threads of the queue. */
static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); }

typedef struct submitter {
    const cdp_os *o;
    cdp_ioq *q;
    int fd;
    cdp_io io[IN_FLIGHT];
    unsigned char *pages;
    unsigned taken;
} submitter;

/* Its operations, one by one, while the other thread completes them. */
static void *submit_all(void *arg)
{
    submitter *s = arg;
    for (unsigned i = 0; i < IN_FLIGHT; i++) {
        s->io[i] = (cdp_io){.op = i % 5 == 4 ? CDP_IO_DATASYNC : CDP_IO_WRITE, .fd = s->fd,
                            .buf = s->pages + i * 4096, .n = 4096,
                            .off = (uint64_t)i * 4096, .durable = i % 3 == 0, .owner = s};
        while (s->o->submit(s->o->ctx, s->q, &s->io[i], 1) == 0)
            nap();
    }
    return NULL;
}

static void check_queue(const cdp_os *o, const char *dir)
{
    char path[4096];
    submitter s = {.o = o, .q = o->queue(o->ctx, 4), .fd = make(o, dir, "queue", path),
                   .pages = o->pages(o->ctx, IN_FLIGHT * 4096)};
    CHECK(s.q && s.fd > 0 && s.pages);
    CHECK(!o->queue(o->ctx, 0) && !o->queue(o->ctx, CDP_IO_MAX_DEPTH + 1));
    for (unsigned round = 0; round < rounds; round++) {
        pthread_t thread;
        memset(s.pages, (int)(round % 255 + 1), IN_FLIGHT * 4096);
        CHECK(pthread_create(&thread, NULL, submit_all, &s) == 0);
        for (unsigned n = 0; n < IN_FLIGHT;) {
            cdp_io *done[3];
            unsigned got = o->complete(o->ctx, s.q, done, 3, round % 2 == 0);
            for (unsigned i = 0; i < got; i++)
                CHECK(done[i]->owner == &s && done[i]->result == (done[i]->op == CDP_IO_WRITE ? 4096 : 0));
            n += got;
            if (!got)
                nap();
        }
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CHECK(o->complete(o->ctx, s.q, (cdp_io *[1]){0}, 1, 1) == 0);
    o->free_queue(o->ctx, s.q);
    o->free_queue(o->ctx, NULL);
    o->free_pages(o->ctx, s.pages, IN_FLIGHT * 4096);
    CHECK(o->close(o->ctx, s.fd) == 0 && o->unlink(o->ctx, path) == 0);
}

static void check_all(const cdp_os *o, const char *dir)
{
    check_memory(o);
    check_maps(o, dir);
    check_handles(o, dir);
    check_threads(o, dir);
    check_queue(o, dir);
}

/* What only the simulator counts and refuses. */
static void check_sim(void)
{
    cdp_sim *s = cdp_sim_new(7);
    const cdp_os *o = cdp_sim_os(s);
    char path[4096], block[8192];
    _Alignas(4096) static char page[8192];
    void *a, *b;
    int fd = make(o, "/", "f", path);
    CHECK(o->pwrite(o->ctx, fd, "before", 6, 0) == 6);
    CHECK(o->map(o->ctx, fd, 6, &a) == 0);
    CHECK(o->pwrite(o->ctx, fd, "after!", 6, 0) == 6);
    CHECK(memcmp(a, "before", 6) == 0);
    CHECK(cdp_sim_open_maps(s) == 1 && cdp_sim_open_handles(s) == 1 && cdp_sim_misuse(s) == 0);
    CHECK(o->unmap(o->ctx, a, 5) == -EINVAL && cdp_sim_misuse(s) == 1);
    CHECK(o->unmap(o->ctx, block, 6) == -EINVAL && cdp_sim_misuse(s) == 2);
    cdp_sim_cut_at(s, 0);
    CHECK(o->map(o->ctx, fd, 6, &b) == -EIO);
    CHECK(o->unmap(o->ctx, a, 6) == 0 && cdp_sim_open_maps(s) == 0);
    CHECK(o->random(o->ctx, block, 8) == 0);
    CHECK(o->close(o->ctx, fd) == -EIO && cdp_sim_open_handles(s) == 0);
    CHECK(cdp_sim_power_on(s, 4) == -EINVAL && cdp_sim_power_on(s, CDP_SIM_KEEP) == 0);
    CHECK(o->close(o->ctx, fd) == -EBADF && cdp_sim_misuse(s) == 2);

    fd = o->open(o->ctx, "f", CDP_OPEN_RDWR | CDP_OPEN_DIRECT);
    CHECK(fd > 0);
    CHECK(o->pwrite(o->ctx, fd, page, 4096, 0) == 4096);
    CHECK(o->pwrite(o->ctx, fd, page + 512, 4096, 0) == -EINVAL);
    CHECK(o->pwrite(o->ctx, fd, page, 4096, 512) == -EINVAL);
    CHECK(o->pwrite(o->ctx, fd, page, 512, 0) == -EINVAL);
    CHECK(o->pread(o->ctx, fd, page + 8, 4096, 0) == -EINVAL);
    CHECK(o->pread(o->ctx, fd, page, 8192, 0) == 4096);
    CHECK(cdp_sim_misuse(s) == 6);
    CHECK(o->close(o->ctx, fd) == 0 && o->close(o->ctx, fd) == -EBADF && cdp_sim_misuse(s) == 7);

    int first = 0, last = 0;
    for (int i = 0; i < 1024; i++) {
        last = o->open(o->ctx, "f", 0);
        CHECK(last > 0);
        first = first ? first : last;
    }
    CHECK(o->open(o->ctx, "f", 0) == -EMFILE && cdp_sim_open_handles(s) == 1024);
    CHECK(o->close(o->ctx, first) == 0);
    fd = o->open(o->ctx, "f", 0);
    CHECK(fd > 0 && fd != first && o->size(o->ctx, first) == -EBADF);
    CHECK(cdp_sim_fail(s, CDP_SIM_PAGES, NULL, 1, 1, ENOMEM) == 0);
    CHECK(o->pages(o->ctx, 4096) == NULL);
    cdp_sim_free(s); /* open handles and all */
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    rounds = (unsigned)strtoul(argv[2], NULL, 10);
    twin = "posix";
    check_all(cdp_os_posix(), argv[1]);
    twin = "posix, threads";
    check_queue(cdp_os_posix_threads(), argv[1]);
    twin = "sim";
    cdp_sim *s = cdp_sim_new(1);
    check_all(cdp_sim_os(s), "/");
    cdp_sim_free(s);
    check_sim();
    puts("all kept");
    return 0;
}

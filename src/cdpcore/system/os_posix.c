/* The OS table on a real machine.
 *
 * Linux's own calls (O_DIRECT, fallocate, BLKGETSIZE64, getrandom, MADV_HUGEPAGE) are compiled in on Linux unless
 * CDP_PLAIN_POSIX is set; each has its plain twin next to it. SEEK_DATA is used wherever the headers have it, and
 * CDP_PLAIN_POSIX turns it off as well, so that the twin is tested.
 *
 * Invariants
 *  1. No state: everything is in the kernel's file descriptors, the table is constant.
 *  2. Handles are regular files or block devices, close-on-exec.
 *  3. After a failed datasync the kernel may have marked the lost pages clean (a second call then succeeds without
 *     them): the caller must not count on anything that was not durable before.
 *
 * Threading: any thread. Two calls on one handle do not disturb each other (no file position is used, but for the size
 * of block devices in the plain twin, which nothing reads back). */
#if !defined(_GNU_SOURCE) && defined(__linux__)
#define _GNU_SOURCE 1
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#include "system/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(CDP_PLAIN_POSIX)
#define OS_LINUX 1
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#else
#define OS_LINUX 0
#endif
#if defined(SEEK_DATA) && defined(SEEK_HOLE) && !defined(CDP_PLAIN_POSIX)
#define OS_SEEK_DATA 1
#else
#define OS_SEEK_DATA 0
#endif

_Static_assert(sizeof(off_t) == 8, "64-bit file offsets");

#define CHUNK_BYTES (1ull << 30) /* of one pread or pwrite: Linux stops at 2 GiB - 4 KiB, macOS refuses 2 GiB */
#define HUGE_BYTES (2ull << 20)

static int in_range(uint64_t off, uint64_t n) { return off <= INT64_MAX && n <= INT64_MAX - off; }

static int64_t px_size(void *ctx, int fd);

/* --- files ------------------------------------------------------------------------------------------------------ */

/* O_DIRECT is set after the open: open(O_CREAT | O_DIRECT) on a file system without it fails but leaves the new file
 * behind, and a second open with O_EXCL then finds it. Where it is refused the handle stays buffered. */
static void try_direct(int fd)
{
#if OS_LINUX
    int fl = fcntl(fd, F_GETFL);
    if (fl >= 0)
        (void)fcntl(fd, F_SETFL, fl | O_DIRECT);
#else
    (void)fd;
#endif
}

/* A transfer gave EINVAL. True if the request kept the rule for direct handles and the handle is now a buffered one:
 * the file system took the flag but cannot do it (blocks above 4 KiB), or a short transfer ended between blocks. */
static int left_direct(int fd, const void *buf, uint64_t n, uint64_t off)
{
#if OS_LINUX
    if (((uintptr_t)buf | n | off) % CDP_DIRECT_ALIGN)
        return 0;
    int fl = fcntl(fd, F_GETFL);
    return fl >= 0 && (fl & O_DIRECT) && fcntl(fd, F_SETFL, fl & ~O_DIRECT) == 0;
#else
    (void)fd, (void)buf, (void)n, (void)off;
    return 0;
#endif
}

static int px_open(void *ctx, const char *path, uint32_t flags)
{
    (void)ctx;
    if (flags & ~(uint32_t)(CDP_OPEN_RDWR | CDP_OPEN_CREATE | CDP_OPEN_DIRECT | CDP_OPEN_RANDOM))
        return -EINVAL;
    /* O_NONBLOCK: a FIFO given by mistake is refused below, not waited for; it means nothing to files and disks. */
    int oflags = (flags & CDP_OPEN_RDWR ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    if (flags & CDP_OPEN_CREATE)
        oflags |= O_CREAT | O_EXCL;
    int fd;
    do
        fd = open(path, oflags, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -errno;
    struct stat sb;
    int rc = fstat(fd, &sb)         ? -errno
             : S_ISDIR(sb.st_mode)  ? -EISDIR
             : S_ISREG(sb.st_mode)  ? 0
             : S_ISBLK(sb.st_mode)  ? 0
                                    : -EINVAL;
    if (rc) {
        (void)close(fd);
        return rc;
    }
    if (flags & CDP_OPEN_DIRECT)
        try_direct(fd);
#ifdef POSIX_FADV_RANDOM
    if (flags & CDP_OPEN_RANDOM)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
#endif
    return fd;
}

static int px_close(void *ctx, int fd)
{
    (void)ctx;
    return close(fd) && errno != EINTR ? -errno : 0; /* after EINTR the descriptor is gone too */
}

static int64_t px_pread(void *ctx, int fd, void *buf, uint64_t n, uint64_t off)
{
    if (!in_range(off, n))
        return -EINVAL;
    uint64_t done = 0;
    while (done < n) {
        uint64_t want = n - done < CHUNK_BYTES ? n - done : CHUNK_BYTES;
        ssize_t r = pread(fd, (char *)buf + done, (size_t)want, (off_t)(off + done));
        if (r < 0) {
            if (errno == EINTR)
                continue;
            int e = errno;
            if (e == EINVAL && left_direct(fd, buf, n, off))
                continue;
            return -e;
        }
        if (r == 0)
            break;
        done += (uint64_t)r;
        /* A direct handle cannot ask on from between blocks, where a file of an odd size ends. */
        if ((uint64_t)r < want && (off + done) % CDP_DIRECT_ALIGN) {
            int64_t size = px_size(ctx, fd);
            if (size >= 0 && (uint64_t)size <= off + done)
                break;
        }
    }
    return (int64_t)done;
}

/* tmpfs takes no RWF_NOWAIT, and never waits but for swap; a FUSE file system takes none, and does. */
static int64_t px_pread_now(void *ctx, int fd, void *buf, uint64_t n, uint64_t off)
{
#if OS_LINUX && defined(RWF_NOWAIT)
    if (!in_range(off, n))
        return -EINVAL;
    for (uint64_t done = 0; done < n;) {
        struct iovec v = {(char *)buf + done, n - done < CHUNK_BYTES ? n - done : CHUNK_BYTES};
        ssize_t r = preadv2(fd, &v, 1, (off_t)(off + done), RWF_NOWAIT);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno == EOPNOTSUPP) {
            struct statfs fs;
            return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC ? px_pread(ctx, fd, buf, n, off) : -EAGAIN;
        }
        if (r < 0)
            return -errno;
        if (r == 0) /* the end of the file: pread knows all its cases, and it does not wait there */
            return px_pread(ctx, fd, buf, n, off);
        done += (uint64_t)r;
    }
    return (int64_t)n;
#else
    return px_pread(ctx, fd, buf, n, off);
#endif
}

static int64_t px_pwrite(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off)
{
    (void)ctx;
    if (!in_range(off, n))
        return -EFBIG;
    uint64_t done = 0;
    while (done < n) {
        uint64_t want = n - done < CHUNK_BYTES ? n - done : CHUNK_BYTES;
        ssize_t r = pwrite(fd, (const char *)buf + done, (size_t)want, (off_t)(off + done));
        if (r < 0) {
            if (errno == EINTR)
                continue;
            int e = errno;
            if (e == EINVAL && left_direct(fd, buf, n, off))
                continue;
            return -e;
        }
        if (r == 0)
            return -EIO;
        done += (uint64_t)r;
    }
    return (int64_t)done;
}

static int px_datasync(void *ctx, int fd)
{
    (void)ctx;
    int rc;
    do
#ifdef F_FULLFSYNC /* macOS: fsync does not empty the drive's cache */
        rc = fcntl(fd, F_FULLFSYNC);
#else
        rc = fdatasync(fd);
#endif
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int px_truncate(void *ctx, int fd, uint64_t size)
{
    (void)ctx;
    if (size > INT64_MAX)
        return -EFBIG;
    int rc;
    do
        rc = ftruncate(fd, (off_t)size);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Where the file system cannot reserve, only the size grows: a later write may then find the disk full, which its
 * caller has to expect anyway. Not to be called while others write to the same range (glibc's emulation for such file
 * systems reads and writes back one byte a block). */
static int px_allocate(void *ctx, int fd, uint64_t off, uint64_t n)
{
    if (!in_range(off, n))
        return -EFBIG;
    if (n == 0)
        return 0;
    struct stat sb;
    if (fstat(fd, &sb))
        return -errno;
    if (S_ISBLK(sb.st_mode)) {
        int64_t size = px_size(ctx, fd);
        return size < 0 ? (int)size : off + n <= (uint64_t)size ? 0 : -ENOSPC;
    }
    int rc = EOPNOTSUPP;
#if OS_LINUX
    do
        rc = fallocate(fd, 0, (off_t)off, (off_t)n) ? errno : 0;
    while (rc == EINTR);
#elif defined(_POSIX_ADVISORY_INFO) && _POSIX_ADVISORY_INFO > 0
    do
        rc = posix_fallocate(fd, (off_t)off, (off_t)n);
    while (rc == EINTR);
#endif
    if (rc != EOPNOTSUPP && rc != EINVAL && rc != ENOSYS)
        return -rc;
    return (uint64_t)sb.st_size < off + n ? px_truncate(ctx, fd, off + n) : 0;
}

static int px_punch(void *ctx, int fd, uint64_t off, uint64_t n)
{
    (void)ctx;
    if (!in_range(off, n))
        return -EINVAL;
#if OS_LINUX
    if (n == 0)
        return 0;
    int rc;
    do
        rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)n);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
#else
    (void)fd;
    return -EOPNOTSUPP;
#endif
}

static int64_t px_size(void *ctx, int fd)
{
    (void)ctx;
    struct stat sb;
    if (fstat(fd, &sb))
        return -errno;
    if (!S_ISBLK(sb.st_mode))
        return sb.st_size;
#if OS_LINUX
    uint64_t bytes = 0;
    if (ioctl(fd, BLKGETSIZE64, &bytes))
        return -errno;
    return bytes <= INT64_MAX ? (int64_t)bytes : -EOVERFLOW;
#else
    off_t end = lseek(fd, 0, SEEK_END);
    return end < 0 ? -errno : end;
#endif
}

static uint64_t px_changed_ns(void *ctx, int fd)
{
    (void)ctx;
    struct stat sb;
    if (fstat(fd, &sb) || !S_ISREG(sb.st_mode) || sb.st_mtim.tv_sec < 0)
        return 0;
    return (uint64_t)sb.st_mtim.tv_sec * 1000000000u + (uint64_t)sb.st_mtim.tv_nsec;
}

static int px_is_at(void *ctx, int fd, const char *path)
{
    (void)ctx;
    struct stat mine, there;
    if (fstat(fd, &mine))
        return -errno;
    if (stat(path, &there))
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
    if (S_ISBLK(mine.st_mode))
        return S_ISBLK(there.st_mode) && mine.st_rdev == there.st_rdev;
    return mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

static void px_expect(void *ctx, int fd, uint64_t off, uint64_t n)
{
    (void)ctx;
#ifdef POSIX_FADV_WILLNEED
    (void)posix_fadvise(fd, (off_t)off, (off_t)n, POSIX_FADV_WILLNEED);
#else
    (void)fd, (void)off, (void)n;
#endif
}

static cdp_ioq *px_threads_queue(void *ctx, uint32_t depth)
{
    (void)ctx;
    return cdp_threads_queue(depth);
}

static cdp_ioq *px_queue(void *ctx, uint32_t depth)
{
    cdp_ioq *q = cdp_uring_queue(depth);
    return q ? q : px_threads_queue(ctx, depth);
}

static uint32_t px_submit(void *ctx, cdp_ioq *q, cdp_io *list, uint32_t n)
{
    (void)ctx;
    return q->calls->submit(q, list, n);
}

static uint32_t px_complete(void *ctx, cdp_ioq *q, cdp_io **done, uint32_t max, int wait)
{
    (void)ctx;
    return q->calls->complete(q, done, max, wait);
}

static int px_queue_fd(void *ctx, cdp_ioq *q)
{
    (void)ctx;
    return q->calls->fd(q);
}

static void px_free_queue(void *ctx, cdp_ioq *q)
{
    (void)ctx;
    if (q)
        q->calls->free(q);
}

static int px_next_data(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *end)
{
    int64_t size = px_size(ctx, fd);
    if (size < 0)
        return (int)size;
    if (off >= (uint64_t)size)
        return 0;
#if OS_SEEK_DATA
    off_t data = lseek(fd, (off_t)off, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data >= 0 && hole > data) {
        *start = (uint64_t)data;
        *end = (uint64_t)hole;
        return 1;
    }
    if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP)
        return -errno;
    /* Block devices have no holes to ask for; a file changed between the two calls may lack them too. */
#endif
    *start = off;
    *end = (uint64_t)size;
    return 1;
}

/* flock, not fcntl: a lock of fcntl belongs to the process, so it would not keep two volumes of one process apart and
 * is dropped when anything in the process closes any descriptor of the file. Of the two kinds that belong to the open
 * file, flock exists on every Unix (F_OFD_SETLK: Linux, and POSIX since 2024) and needs no write access. */
static int px_lock(void *ctx, int fd)
{
    (void)ctx;
    int rc;
    do
        rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int px_map(void *ctx, int fd, uint64_t n, void **addr)
{
    int64_t size = px_size(ctx, fd);
    if (size < 0)
        return (int)size;
    if (n == 0 || n > (uint64_t)size || n > SIZE_MAX) /* a page past the end would be a SIGBUS */
        return -EINVAL;
    void *p = mmap(NULL, (size_t)n, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    *addr = p;
    return 0;
}

static int px_unmap(void *ctx, void *addr, uint64_t n)
{
    (void)ctx;
    return munmap(addr, (size_t)n) ? -errno : 0;
}

/* --- names ------------------------------------------------------------------------------------------------------ */

static int px_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return rename(from, to) ? -errno : 0;
}

static int px_unlink(void *ctx, const char *path)
{
    (void)ctx;
    return unlink(path) ? -errno : 0;
}

static int px_mkdir(void *ctx, const char *path)
{
    (void)ctx;
    return mkdir(path, 0700) ? -errno : 0;
}

static int px_rmdir(void *ctx, const char *path)
{
    (void)ctx;
    return rmdir(path) ? -errno : 0;
}

static int px_sync_dir(void *ctx, const char *path)
{
    (void)ctx;
    int fd;
    do
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -errno;
    int rc;
    do
        rc = fsync(fd) ? -errno : 0;
    while (rc == -EINTR);
    (void)close(fd);
    return rc == -EINVAL ? 0 : rc; /* EINVAL: a file system that has no such call on directories (some network ones) */
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int not_dots(const struct dirent *e) { return strcmp(e->d_name, ".") && strcmp(e->d_name, ".."); }

static int64_t px_list_dir(void *ctx, const char *path, char *buf, uint64_t cap)
{
    (void)ctx;
    struct dirent **entries;
    int count = scandir(path, &entries, not_dots, by_name);
    if (count < 0)
        return -errno;
    uint64_t need = 0;
    for (int i = 0; i < count; i++)
        need += strlen(entries[i]->d_name) + 1;
    for (int i = 0; i < count; i++) {
        if (need <= cap) {
            size_t n = strlen(entries[i]->d_name) + 1;
            memcpy(buf, entries[i]->d_name, n);
            buf += n;
        }
        free(entries[i]);
    }
    free(entries);
    return (int64_t)need;
}

/* --- clock, randomness, memory ---------------------------------------------------------------------------------- */

static uint64_t px_now_ns(void *ctx)
{
    (void)ctx;
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail: the clock is mandatory, the pointer good */
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int px_random(void *ctx, void *buf, uint64_t n)
{
    if (n > 256)
        return -EINVAL;
#if OS_LINUX
    (void)ctx;
    uint64_t done = 0;
    while (done < n) {
        ssize_t r = getrandom((char *)buf + done, (size_t)(n - done), 0);
        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0)
            done += (uint64_t)r;
    }
    return 0;
#else
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = 0;
    for (uint64_t done = 0; done < n && rc == 0;) {
        ssize_t r = read(fd, (char *)buf + done, (size_t)(n - done));
        if (r > 0)
            done += (uint64_t)r;
        else if (r == 0 || errno != EINTR)
            rc = r == 0 ? -EIO : -errno;
    }
    (void)close(fd);
    (void)ctx;
    return rc;
#endif
}

static uint64_t whole_pages(uint64_t n)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

static void *px_pages(void *ctx, uint64_t n)
{
    (void)ctx;
    if (n == 0 || n > SIZE_MAX / 4)
        return NULL;
    n = whole_pages(n);
    uint64_t align = n >= HUGE_BYTES ? HUGE_BYTES : 0; /* smaller maps are page-aligned by mmap */
    char *p = mmap(NULL, (size_t)(n + align), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (align) {
        uint64_t head = (align - (uintptr_t)p % align) % align;
        if (head)
            (void)munmap(p, (size_t)head);
        if (align - head)
            (void)munmap(p + head + n, (size_t)(align - head));
        p += head;
#if OS_LINUX && defined(MADV_HUGEPAGE)
        (void)madvise(p, (size_t)n, MADV_HUGEPAGE);
#endif
    }
    return p;
}

static void px_free_pages(void *ctx, void *addr, uint64_t n)
{
    (void)ctx;
    if (addr)
        (void)munmap(addr, (size_t)whole_pages(n));
}

/* clang-format off */
#define TABLE(queue_) {                   \
    .ctx = NULL,                          \
    .open = px_open,                      \
    .close = px_close,                    \
    .pread = px_pread,                    \
    .pread_now = px_pread_now,            \
    .pwrite = px_pwrite,                  \
    .datasync = px_datasync,              \
    .allocate = px_allocate,              \
    .truncate = px_truncate,              \
    .punch = px_punch,                    \
    .size = px_size,                      \
    .changed_ns = px_changed_ns,          \
    .is_at = px_is_at,                    \
    .next_data = px_next_data,            \
    .expect = px_expect,                  \
    .queue = queue_,                      \
    .submit = px_submit,                  \
    .complete = px_complete,              \
    .queue_fd = px_queue_fd,              \
    .free_queue = px_free_queue,          \
    .lock = px_lock,                      \
    .map = px_map,                        \
    .unmap = px_unmap,                    \
    .rename = px_rename,                  \
    .unlink = px_unlink,                  \
    .mkdir = px_mkdir,                    \
    .rmdir = px_rmdir,                    \
    .sync_dir = px_sync_dir,              \
    .list_dir = px_list_dir,              \
    .now_ns = px_now_ns,                  \
    .random = px_random,                  \
    .pages = px_pages,                    \
    .free_pages = px_free_pages,          \
}
/* clang-format on */

static const cdp_os posix_table = TABLE(px_queue), posix_threads_table = TABLE(px_threads_queue);

const cdp_os *cdp_os_posix(void) { return &posix_table; }
const cdp_os *cdp_os_posix_threads(void) { return &posix_threads_table; }

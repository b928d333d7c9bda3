/* A small OS table for the C programs here: plain files, and a fuse that makes the n-th call fail. Not installed.
 * PLAIN_CHECKED: map() reads the file into the heap, where the address sanitizer guards its very last byte, and
 * datasync does nothing, for speed. */
#ifndef PLAIN_OS_H
#define PLAIN_OS_H
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "system/os.h"

static int64_t plain_fuse = -1; /* calls that still succeed before one fails; -1: all */
static int plain_broken;        /* 1: the calls after that one fail too */
static uint64_t plain_failures; /* calls that failed on purpose so far */

static int blown(void)
{
    if (plain_fuse < 0)
        return 0;
    if (plain_fuse == 0) {
        if (!plain_broken)
            plain_fuse = -1;
        plain_failures++;
        return 1;
    }
    plain_fuse--;
    return 0;
}

static int plain_open(void *ctx, const char *path, uint32_t flags)
{
    int how = flags & CDP_OPEN_RDWR ? O_RDWR : O_RDONLY, fd;
    (void)ctx;
    if (blown())
        return -EIO;
    fd = open(path, flags & CDP_OPEN_CREATE ? how | O_CREAT | O_EXCL : how, 0600);
    return fd < 0 ? -errno : fd;
}

static int plain_close(void *ctx, int fd)
{
    (void)ctx;
    close(fd); /* also when it "fails", as the real one does */
    return blown() ? -EIO : 0;
}

static int64_t plain_pread(void *ctx, int fd, void *buf, uint64_t n, uint64_t off)
{
    uint64_t done = 0;
    (void)ctx;
    if (blown())
        return -EIO;
    while (done < n) {
        ssize_t rc = pread(fd, (char *)buf + done, n - done, (off_t)(off + done));
        if (rc <= 0)
            return rc < 0 ? -errno : (int64_t)done;
        done += (uint64_t)rc;
    }
    return (int64_t)done;
}

static int64_t plain_pwrite(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off)
{
    uint64_t done = 0;
    (void)ctx;
    if (blown())
        return -ENOSPC;
    while (done < n) {
        ssize_t rc = pwrite(fd, (const char *)buf + done, n - done, (off_t)(off + done));
        if (rc <= 0)
            return -errno;
        done += (uint64_t)rc;
    }
    return (int64_t)done;
}

static int plain_datasync(void *ctx, int fd)
{
    (void)ctx;
    if (blown())
        return -EIO;
#ifdef PLAIN_CHECKED
    (void)fd;
    return 0;
#else
    return fdatasync(fd) < 0 ? -errno : 0;
#endif
}

static int64_t plain_size(void *ctx, int fd)
{
    struct stat s;
    (void)ctx;
    return blown() ? -EIO : fstat(fd, &s) < 0 ? -errno : s.st_size;
}

static int plain_map(void *ctx, int fd, uint64_t n, void **addr)
{
    (void)ctx;
    if (blown())
        return -ENOMEM;
#ifdef PLAIN_CHECKED
    if ((*addr = malloc(n)) == NULL)
        return -ENOMEM;
    return pread(fd, *addr, n, 0) == (ssize_t)n ? 0 : -EIO;
#else
    *addr = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    return *addr == MAP_FAILED ? -errno : 0;
#endif
}

static int plain_unmap(void *ctx, void *addr, uint64_t n)
{
    (void)ctx;
#ifdef PLAIN_CHECKED
    (void)n;
    free(addr);
    return 0;
#else
    return munmap(addr, n) < 0 ? -errno : 0;
#endif
}

static int plain_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return blown() ? -EIO : rename(from, to) < 0 ? -errno : 0;
}

static int plain_unlink(void *ctx, const char *path)
{
    (void)ctx;
    return unlink(path) < 0 ? -errno : 0; /* never fails on purpose: cleaning up is what is tested */
}

static const cdp_os plain_os = {
    .open = plain_open, .close = plain_close, .pread = plain_pread, .pwrite = plain_pwrite, .datasync = plain_datasync,
    .size = plain_size, .map = plain_map, .unmap = plain_unmap, .rename = plain_rename, .unlink = plain_unlink,
};

#endif

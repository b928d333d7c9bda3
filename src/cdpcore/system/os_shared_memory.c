/* Memory that several processes of this machine map. Not in the OS table: the engine shares nothing. */
#if !defined(_GNU_SOURCE) && defined(__linux__)
#define _GNU_SOURCE 1
#endif
#include "system/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* POSIX names shared memory; the name lives for as long as it takes to take it away. Where /dev/shm is small (64 MiB in
 * many containers) that is the bound of the plain twin, and not of memfd. */
int cdp_os_shared_memory(uint64_t n)
{
    int fd, rc;
#if defined(__linux__) && !defined(CDP_PLAIN_POSIX)
    fd = memfd_create("cdp", MFD_CLOEXEC);
#else
    static unsigned serial;
    char name[64];
    int tries = 0;
    do {
        snprintf(name, sizeof name, "/cdp.%ld.%u", (long)getpid(), __atomic_fetch_add(&serial, 1, __ATOMIC_RELAXED));
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    } while (fd < 0 && errno == EEXIST && ++tries < 1000);
    if (fd >= 0)
        shm_unlink(name);
#endif
    if (fd < 0)
        return -errno;
    if (n > INT64_MAX || ftruncate(fd, (off_t)n) != 0) {
        rc = n > INT64_MAX ? EINVAL : errno;
        close(fd);
        return -rc;
    }
    return fd;
}

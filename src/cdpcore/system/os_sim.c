/* The simulated OS table: handles, how a call is counted and meets its faults, and what each call does. See os_sim.h;
 * what a file and a name are is in os_sim_file.c and os_sim_tree.c, the controls in os_sim_control.c. */
#include "system/os_sim_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MMAP_BYTES (1ull << 20) /* smaller pages() come from malloc, where a sanitizer sees what lies beside them */

/* --- how a call begins and ends ----------------------------------------------------------------------------------- */

static int changes(uint32_t call)
{
    const uint32_t set = 1u << CDP_SIM_CREATE | 1u << CDP_SIM_PWRITE | 1u << CDP_SIM_DATASYNC | 1u << CDP_SIM_ALLOCATE
                       | 1u << CDP_SIM_TRUNCATE | 1u << CDP_SIM_PUNCH | 1u << CDP_SIM_RENAME | 1u << CDP_SIM_UNLINK
                       | 1u << CDP_SIM_MKDIR | 1u << CDP_SIM_RMDIR | 1u << CDP_SIM_SYNC_DIR;
    return (int)(set >> call & 1);
}

/* Count the call, and look up what is to happen to it. Every armed fault that it matches counts it; the first that is
 * due decides. */
static int count_call(cdp_sim *s, uint32_t call, const char *path)
{
    int verdict = GO;
    s->counts[call]++;
    if (changes(call)) {
        s->calls++;
        if (s->cut_in != UINT64_MAX && --s->cut_in == 0) {
            sim_cut_queues(s);
            s->powered = 0;
            return IN_FLIGHT;
        }
    }
    for (sim_fault *f = s->faults; f < s->faults + SIM_MAX_FAULTS; f++) {
        if (f->verdict == GO || (f->call != call && (f->call != CDP_SIM_ANY || call > CDP_SIM_LIST_DIR)))
            continue;
        if (f->part[0] && !strstr(path, f->part))
            continue;
        if (f->n > 1) {
            f->n--;
            continue;
        }
        if (verdict == GO) {
            verdict = f->verdict;
            s->delta = f->delta;
        }
        if (--f->times == 0)
            f->verdict = GO;
    }
    return verdict;
}

/* For a call on a path. */
static int begin(cdp_sim *s, uint32_t call, const char *path) { return s->powered ? count_call(s, call, path) : -EIO; }

/* NULL: there is no such handle. */
static sim_handle *find_handle(cdp_sim *s, int fd)
{
    sim_handle *h = fd > 0 ? &s->handles[(uint32_t)fd % SIM_SLOTS] : NULL;
    if (h && h->inode && h->generation == (uint32_t)fd / SIM_SLOTS)
        return h;
    if (!h || (uint32_t)fd / SIM_SLOTS > h->lost)
        s->misuse++;
    return NULL;
}

/* For a call on a handle. *h is NULL where the call is refused; with a verdict < 0 and a handle a fault was injected.
 * `writes`: needs a writable handle. */
static int begin_fd(cdp_sim *s, uint32_t call, int fd, int writes, sim_handle **h)
{
    *h = NULL;
    if (!s->powered)
        return -EIO;
    sim_handle *found = find_handle(s, fd);
    if (!found)
        return -EBADF;
    if (writes && !(found->flags & CDP_OPEN_RDWR))
        return call == CDP_SIM_TRUNCATE ? -EINVAL : -EBADF; /* as Linux has it */
    *h = found;
    return count_call(s, call, found->path);
}

/* As begin_fd, for a transfer: a direct handle takes whole blocks only. */
static int begin_io(cdp_sim *s, uint32_t call, int fd, const void *buf, uint64_t n, uint64_t off, sim_handle **h)
{
    const sim_handle *found = s->powered ? find_handle(s, fd) : NULL;
    *h = NULL;
    if (s->powered && !found)
        return -EBADF;
    if (found && found->flags & CDP_OPEN_DIRECT && ((uintptr_t)buf | n | off) % CDP_DIRECT_ALIGN) {
        s->misuse++;
        return -EINVAL;
    }
    return begin_fd(s, call, fd, call == CDP_SIM_PWRITE, h);
}

static int64_t end(cdp_sim *s, int verdict, int64_t rc)
{
    sim_unlock(s);
    return verdict == IN_FLIGHT ? -EIO : rc;
}

static int in_range(uint64_t off, uint64_t n) { return off <= INT64_MAX && n <= INT64_MAX - off; }

static uint64_t space_left(const cdp_sim *s)
{
    return s->space_pages > s->tree.used_pages ? s->space_pages - s->tree.used_pages : 0;
}

/* --- handles ------------------------------------------------------------------------------------------------------ */

static int new_handle(cdp_sim *s, sim_inode *ino, const char *path, uint32_t flags)
{
    if (s->n_handles == SIM_SLOTS)
        return -EMFILE;
    /* Round about, so that a number comes back as late as possible. */
    while (s->handles[s->next_slot].inode)
        s->next_slot = (s->next_slot + 1) % SIM_SLOTS;
    uint32_t slot = s->next_slot;
    sim_handle *h = &s->handles[slot];
    size_t n = strlen(path) + 1;
    h->inode = ino;
    h->path = memcpy(sim_alloc(n), path, n);
    h->flags = flags;
    h->generation = h->generation + 1 < SIM_GENERATIONS ? h->generation + 1 : 1;
    sim_inode_use(&s->tree, ino);
    s->n_handles++;
    s->next_slot = (slot + 1) % SIM_SLOTS;
    return (int)(h->generation * SIM_SLOTS + slot);
}

void sim_free_handle(cdp_sim *s, sim_handle *h)
{
    int fd = (int)(h->generation * SIM_SLOTS + (uint32_t)(h - s->handles));
    if (h->inode->lock == fd)
        h->inode->lock = 0;
    sim_inode_unuse(&s->tree, h->inode);
    h->inode = NULL;
    free(h->path);
    h->path = NULL;
    s->n_handles--;
}

static int sm_open(void *ctx, const char *path, uint32_t flags)
{
    if (flags & ~(uint32_t)(CDP_OPEN_RDWR | CDP_OPEN_CREATE | CDP_OPEN_DIRECT | CDP_OPEN_RANDOM))
        return -EINVAL;
    cdp_sim *s = sim_lock(ctx);
    int rc = begin(s, flags & CDP_OPEN_CREATE ? CDP_SIM_CREATE : CDP_SIM_OPEN, path), verdict = rc;
    sim_inode *ino;
    if (rc >= 0 && s->n_handles == SIM_SLOTS)
        rc = -EMFILE;
    if (rc >= 0)
        rc = flags & CDP_OPEN_CREATE ? sim_create(&s->tree, path, 0, &ino) : sim_find(&s->tree, path, &ino);
    if (rc == 0 && ino->is_dir)
        rc = -EISDIR;
    if (rc == 0 && verdict != IN_FLIGHT)
        rc = new_handle(s, ino, path, flags);
    return (int)end(s, verdict, rc);
}

/* After a power cut too the handle is given back, so that what is left open can be counted. */
static int sm_close(void *ctx, int fd)
{
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h = find_handle(s, fd);
    if (h)
        sim_free_handle(s, h);
    return (int)end(s, GO, !s->powered ? -EIO : h ? 0 : -EBADF);
}

static int sm_lock(void *ctx, int fd)
{
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int rc = begin_fd(s, CDP_SIM_LOCK, fd, 0, &h);
    if (rc == GO && h->inode->lock && h->inode->lock != fd)
        rc = -EWOULDBLOCK;
    if (rc == GO)
        h->inode->lock = fd;
    return (int)end(s, GO, rc);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static int64_t sm_pread(void *ctx, int fd, void *buf, uint64_t n, uint64_t off)
{
    if (!in_range(off, n))
        return -EINVAL;
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int64_t rc = begin_io(s, CDP_SIM_PREAD, fd, buf, n, off, &h);
    if (rc == GO)
        rc = (int64_t)sim_file_read(&h->inode->file, buf, n, off);
    return end(s, GO, rc);
}

/* How much of a write has room. */
static uint64_t fitting(const cdp_sim *s, const sim_file *f, uint64_t n, uint64_t off)
{
    uint64_t left = space_left(s), page = off / SIM_PAGE, stop = (off + n + SIM_PAGE - 1) / SIM_PAGE;
    if (stop - page <= left)
        return n;
    for (; page < stop; page++) {
        if (sim_map_get(&f->cur, page))
            continue;
        if (left-- == 0)
            return page * SIM_PAGE > off ? page * SIM_PAGE - off : 0;
    }
    return n;
}

int64_t sim_write(cdp_sim *s, int fd, const void *buf, uint64_t n, uint64_t off, int durable)
{
    if (!in_range(off, n))
        return -EFBIG;
    (void)sim_lock(s);
    sim_handle *h;
    int verdict = begin_io(s, CDP_SIM_PWRITE, fd, buf, n, off, &h);
    if (!h || n == 0)
        return end(s, verdict, verdict < 0 ? verdict : 0);
    sim_file *f = &h->inode->file;
    sim_file_touch(f, s->clock_ns);
    uint64_t part = n, at = off;
    if (verdict == LOSE)
        part = 0;
    if (verdict == MISDIRECT) {
        at = off + (uint64_t)s->delta;
        part = in_range(at, n) ? n : 0;
    }
    if (verdict < 0) /* a failing one: its first sectors may be there */
        part = sim_rand(&s->rand_fate) % (n / SIM_SECTOR + 1) * SIM_SECTOR;
    uint64_t room = part ? fitting(s, f, part, at) : 0;
    sim_file_write(&s->tree.pool, f, buf, room, at, verdict == IN_FLIGHT);
    if (verdict == LOSE || verdict == MISDIRECT)
        sim_file_grow(&s->tree.pool, f, off + n);
    if (durable && verdict != IN_FLIGHT && verdict >= 0 && room == part)
        sim_file_sync_write(&s->tree.pool, f);
    return end(s, verdict, verdict < 0 ? verdict : room < part ? -ENOSPC : (int64_t)n);
}

static int64_t sm_pwrite(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off)
{
    return sim_write(ctx, fd, buf, n, off, 0);
}

uint64_t sim_operations(cdp_sim *s, int fd)
{
    const sim_handle *h = s->powered ? find_handle(s, fd) : NULL;
    return h ? h->inode->file.ops_made : 0;
}

void sim_write_in_flight(cdp_sim *s, const cdp_io *io)
{
    const sim_handle *h = find_handle(s, io->fd);
    if (h && h->flags & CDP_OPEN_RDWR && in_range(io->off, io->n))
        sim_file_write(&s->tree.pool, &h->inode->file, io->buf, fitting(s, &h->inode->file, io->n, io->off), io->off,
                       1);
}

int sim_sync_upto(cdp_sim *s, int fd, uint64_t upto)
{
    (void)sim_lock(s);
    sim_handle *h;
    int verdict = begin_fd(s, CDP_SIM_DATASYNC, fd, 0, &h);
    if (verdict == GO) {
        sim_file_sync_upto(&s->tree.pool, &h->inode->file, upto);
    } else if (verdict < 0 && h) {
        sim_fate fate = sim_draw_fate(s, CDP_SIM_SEEDED);
        sim_file_sync_failed(&s->tree.pool, &h->inode->file, &fate);
    }
    return (int)end(s, verdict, verdict);
}

static int sm_datasync(void *ctx, int fd) { return sim_sync_upto(ctx, fd, UINT64_MAX); }

static int sm_allocate(void *ctx, int fd, uint64_t off, uint64_t n)
{
    if (!in_range(off, n))
        return -EFBIG;
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int verdict = begin_fd(s, CDP_SIM_ALLOCATE, fd, 1, &h), rc = verdict;
    if (verdict >= 0) {
        sim_file *f = &h->inode->file;
        uint64_t page = off / SIM_PAGE, stop = (off + n + SIM_PAGE - 1) / SIM_PAGE;
        rc = 0;
        /* At most used_pages of them can be there already: no need to count in a range that is far too long. */
        if (stop - page > s->space_pages + s->tree.used_pages
            || stop - page - sim_map_count(&f->cur, page, stop) > space_left(s))
            rc = -ENOSPC;
        else
            sim_file_allocate(&s->tree.pool, f, off, n);
    }
    return (int)end(s, verdict, rc);
}

static int sm_truncate(void *ctx, int fd, uint64_t size)
{
    if (size > INT64_MAX)
        return -EFBIG;
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int verdict = begin_fd(s, CDP_SIM_TRUNCATE, fd, 1, &h);
    if (verdict >= 0) {
        sim_file_truncate(&s->tree.pool, &h->inode->file, size);
        sim_file_touch(&h->inode->file, s->clock_ns);
    }
    return (int)end(s, verdict, verdict);
}

static int sm_punch(void *ctx, int fd, uint64_t off, uint64_t n)
{
    if (!in_range(off, n))
        return -EINVAL;
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int verdict = begin_fd(s, CDP_SIM_PUNCH, fd, 1, &h), rc = verdict;
    if (verdict >= 0 && !s->sparse)
        rc = -EOPNOTSUPP;
    else if (verdict >= 0) {
        sim_file_punch(&s->tree.pool, &h->inode->file, off, n);
        sim_file_touch(&h->inode->file, s->clock_ns);
    }
    return (int)end(s, verdict, rc);
}

static int64_t sm_size(void *ctx, int fd)
{
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int64_t rc = begin_fd(s, CDP_SIM_SIZE, fd, 0, &h);
    if (rc == GO)
        rc = (int64_t)h->inode->file.cur_size;
    return end(s, GO, rc);
}

static uint64_t sm_changed_ns(void *ctx, int fd)
{
    cdp_sim *s = sim_lock(ctx);
    const sim_handle *h = s->powered ? find_handle(s, fd) : NULL;
    uint64_t ns = h ? h->inode->file.changed_ns : 0;
    sim_unlock(s);
    return ns;
}

static int sm_is_at(void *ctx, int fd, const char *path)
{
    cdp_sim *s = sim_lock(ctx);
    const sim_handle *h = s->powered ? find_handle(s, fd) : NULL;
    sim_inode *there;
    int rc = !s->powered ? -EIO : !h ? -EBADF : sim_find(&s->tree, path, &there) == 0 && there == h->inode;
    sim_unlock(s);
    return rc;
}

static void sm_expect(void *ctx, int fd, uint64_t off, uint64_t n) { (void)ctx, (void)fd, (void)off, (void)n; }

static int sm_next_data(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *stop)
{
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int rc = begin_fd(s, CDP_SIM_NEXT_DATA, fd, 0, &h);
    if (rc == GO && s->sparse) {
        rc = sim_file_next_data(&s->tree.pool, &h->inode->file, off, start, stop);
    } else if (rc == GO && off < h->inode->file.cur_size) {
        *start = off;
        *stop = h->inode->file.cur_size;
        rc = 1;
    }
    return (int)end(s, GO, rc);
}

/* A copy of the content at this moment: what the engine maps does not change any more, and a copy made with malloc lets
 * a sanitizer see reads beyond its end. */
static int sm_map(void *ctx, int fd, uint64_t n, void **addr)
{
    cdp_sim *s = sim_lock(ctx);
    sim_handle *h;
    int rc = begin_fd(s, CDP_SIM_MAP, fd, 0, &h);
    if (rc == GO && (n == 0 || n > h->inode->file.cur_size)) {
        s->misuse++;
        rc = -EINVAL;
    }
    if (rc == GO && posix_memalign(addr, CDP_DIRECT_ALIGN, (size_t)n))
        rc = -ENOMEM;
    if (rc == GO) {
        (void)sim_file_read(&h->inode->file, *addr, n, 0);
        sim_mapping *m = sim_alloc(sizeof *m);
        *m = (sim_mapping){.next = s->maps, .addr = *addr, .n = n};
        s->maps = m;
        s->n_maps++;
    }
    return (int)end(s, GO, rc);
}

static int sm_unmap(void *ctx, void *addr, uint64_t n)
{
    cdp_sim *s = sim_lock(ctx);
    sim_mapping **at = &s->maps;
    while (*at && (*at)->addr != addr)
        at = &(*at)->next;
    sim_mapping *m = *at;
    if (!m || m->n != n) {
        s->misuse++;
        return (int)end(s, GO, -EINVAL);
    }
    *at = m->next;
    s->n_maps--;
    free(m->addr);
    free(m);
    return (int)end(s, GO, 0);
}

/* --- names -------------------------------------------------------------------------------------------------------- */

static int sm_rename(void *ctx, const char *from, const char *to)
{
    cdp_sim *s = sim_lock(ctx);
    int verdict = begin(s, CDP_SIM_RENAME, from);
    return (int)end(s, verdict, verdict < 0 ? verdict : sim_rename(&s->tree, from, to));
}

static int sm_unlink(void *ctx, const char *path)
{
    cdp_sim *s = sim_lock(ctx);
    int verdict = begin(s, CDP_SIM_UNLINK, path);
    return (int)end(s, verdict, verdict < 0 ? verdict : sim_remove(&s->tree, path, 0));
}

static int sm_mkdir(void *ctx, const char *path)
{
    cdp_sim *s = sim_lock(ctx);
    sim_inode *ino;
    int verdict = begin(s, CDP_SIM_MKDIR, path);
    return (int)end(s, verdict, verdict < 0 ? verdict : sim_create(&s->tree, path, 1, &ino));
}

static int sm_rmdir(void *ctx, const char *path)
{
    cdp_sim *s = sim_lock(ctx);
    int verdict = begin(s, CDP_SIM_RMDIR, path);
    return (int)end(s, verdict, verdict < 0 ? verdict : sim_remove(&s->tree, path, 1));
}

static int sm_sync_dir(void *ctx, const char *path)
{
    cdp_sim *s = sim_lock(ctx);
    int verdict = begin(s, CDP_SIM_SYNC_DIR, path);
    return (int)end(s, verdict, verdict == GO ? sim_sync_names(&s->tree, path) : verdict);
}

static int64_t sm_list_dir(void *ctx, const char *path, char *buf, uint64_t cap)
{
    cdp_sim *s = sim_lock(ctx);
    int verdict = begin(s, CDP_SIM_LIST_DIR, path);
    return end(s, GO, verdict < 0 ? verdict : sim_list(&s->tree, path, buf, cap));
}

/* --- clock, randomness, memory ------------------------------------------------------------------------------------ */

static uint64_t sm_now_ns(void *ctx)
{
    cdp_sim *s = sim_lock(ctx);
    uint64_t now = s->clock_ns, step = (uint64_t)s->clock_step_ns;
    if (s->clock_step_ns >= 0)
        s->clock_ns = now + step < now ? UINT64_MAX : now + step;
    else
        s->clock_ns = now > -step ? now + step : 0;
    sim_unlock(s);
    return now;
}

static int sm_random(void *ctx, void *buf, uint64_t n)
{
    if (n > 256)
        return -EINVAL;
    cdp_sim *s = sim_lock(ctx);
    int rc = count_call(s, CDP_SIM_RANDOM, ""); /* neither this nor pages() is I/O: they work without power */
    for (uint64_t i = 0; i < n && rc == GO; i++)
        ((unsigned char *)buf)[i] = (unsigned char)sim_rand(&s->rand_bytes);
    return (int)end(s, GO, rc);
}

static void *sm_pages(void *ctx, uint64_t n)
{
    cdp_sim *s = sim_lock(ctx);
    int rc = count_call(s, CDP_SIM_PAGES, "");
    sim_unlock(s);
    void *p = NULL;
    if (rc < 0 || n == 0)
        return NULL;
    if (n >= MMAP_BYTES)
        return cdp_os_posix()->pages(NULL, n);
    return posix_memalign(&p, CDP_DIRECT_ALIGN, (size_t)n) ? NULL : memset(p, 0, (size_t)n);
}

static void sm_free_pages(void *ctx, void *addr, uint64_t n)
{
    (void)ctx;
    if (n >= MMAP_BYTES)
        cdp_os_posix()->free_pages(NULL, addr, n);
    else
        free(addr);
}

const cdp_os sim_table = {
    .open = sm_open,
    .close = sm_close,
    .pread = sm_pread,
    .pread_now = sm_pread, /* all is in memory: nothing waits */
    .pwrite = sm_pwrite,
    .datasync = sm_datasync,
    .allocate = sm_allocate,
    .truncate = sm_truncate,
    .punch = sm_punch,
    .size = sm_size,
    .changed_ns = sm_changed_ns,
    .is_at = sm_is_at,
    .next_data = sm_next_data,
    .expect = sm_expect,
    .queue = sm_queue,
    .submit = sm_submit,
    .complete = sm_complete,
    .queue_fd = sm_queue_fd,
    .free_queue = sm_free_queue,
    .lock = sm_lock,
    .map = sm_map,
    .unmap = sm_unmap,
    .rename = sm_rename,
    .unlink = sm_unlink,
    .mkdir = sm_mkdir,
    .rmdir = sm_rmdir,
    .sync_dir = sm_sync_dir,
    .list_dir = sm_list_dir,
    .now_ns = sm_now_ns,
    .random = sm_random,
    .pages = sm_pages,
    .free_pages = sm_free_pages,
};

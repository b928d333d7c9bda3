/* See os_sim_file.h. */
#include "system/os_sim_file.h"
#include "system/os_sim.h"

#include <stdlib.h>
#include <string.h>

enum op_kind {
    OP_WRITE,
    OP_GROW,     /* size at least off + n */
    OP_TRUNCATE, /* size becomes off */
    OP_PUNCH,
    OP_ALLOCATE,
    OP_STALE, /* no effect; its pages differ between current and durable content */
};

struct sim_op {
    sim_op *next;
    uint32_t kind;
    uint32_t in_flight;
    uint64_t number;      /* of the file's operations, from 1 */
    uint64_t off, n;      /* bytes */
    uint64_t page, end;   /* the pages it touches: [page, end) */
    sim_page *pages[];    /* of OP_WRITE: the new pages, one reference each */
};

/* Which sectors of a write, counted from its first, reach the disk. */
struct tear {
    enum { WHOLE, SPAN_LOST, RANDOM } style;
    uint64_t from, to; /* SPAN_LOST: these do not */
    uint64_t salt;     /* RANDOM: half of them */
};

static uint64_t pages_to(uint64_t byte_end) { return byte_end / SIM_PAGE + (byte_end % SIM_PAGE != 0); }

/* --- the list of operations --------------------------------------------------------------------------------------- */

static sim_op *add_op(sim_pool *pool, sim_file *f, uint32_t kind, uint64_t off, uint64_t n, uint64_t page, uint64_t end)
{
    uint64_t n_pages = kind == OP_WRITE ? end - page : 0;
    if (f->n_ops >= SIM_MAX_OPS || f->op_pages + n_pages > SIM_MAX_OP_PAGES)
        sim_file_sync(pool, f);
    sim_op *op = sim_alloc(sizeof *op + n_pages * sizeof op->pages[0]);
    *op = (sim_op){.kind = kind, .off = off, .n = n, .page = page, .end = end};
    if (f->last)
        f->last->next = op;
    else
        f->first = op;
    f->last = op;
    f->n_ops++;
    f->op_pages += n_pages;
    op->number = ++f->ops_made;
    return op;
}

static void free_op(sim_pool *pool, sim_op *op)
{
    if (op->kind == OP_WRITE)
        for (uint64_t i = 0; i < op->end - op->page; i++)
            sim_page_unref(pool, op->pages[i]);
    free(op);
}

/* Free all operations but the STALE one. */
static void drop_ops(sim_pool *pool, sim_file *f)
{
    sim_op *op = f->first, *stale = NULL;
    while (op) {
        sim_op *next = op->next;
        if (op->kind == OP_STALE)
            stale = op;
        else
            free_op(pool, op);
        op = next;
    }
    if (stale)
        stale->next = NULL;
    f->first = f->last = stale;
    f->n_ops = stale != NULL;
    f->op_pages = 0;
}

/* --- the current content ------------------------------------------------------------------------------------------ */

uint64_t sim_file_read(const sim_file *f, void *buf, uint64_t n, uint64_t off)
{
    if (off >= f->cur_size)
        return 0;
    if (n > f->cur_size - off)
        n = f->cur_size - off;
    for (uint64_t done = 0; done < n;) {
        uint64_t at = (off + done) % SIM_PAGE;
        uint64_t part = SIM_PAGE - at < n - done ? SIM_PAGE - at : n - done;
        const sim_page *p = sim_map_get(&f->cur, (off + done) / SIM_PAGE);
        if (p)
            memcpy((char *)buf + done, p->data + at, part);
        else
            memset((char *)buf + done, 0, part);
        done += part;
    }
    return n;
}

void sim_file_write(sim_pool *pool, sim_file *f, const void *buf, uint64_t n, uint64_t off, int in_flight)
{
    if (n == 0)
        return;
    sim_op *op = add_op(pool, f, OP_WRITE, off, n, off / SIM_PAGE, pages_to(off + n));
    op->in_flight = in_flight != 0;
    for (uint64_t done = 0, i = 0; done < n; i++) {
        uint64_t at = (off + done) % SIM_PAGE;
        uint64_t part = SIM_PAGE - at < n - done ? SIM_PAGE - at : n - done;
        sim_page *p = part == SIM_PAGE ? sim_page_new(pool)
                                       : sim_page_copy(pool, sim_map_get(&f->cur, op->page + i));
        memcpy(p->data + at, (const char *)buf + done, part);
        sim_map_set(pool, &f->cur, op->page + i, p);
        op->pages[i] = p;
        done += part;
    }
    if (off + n > f->cur_size)
        f->cur_size = off + n;
}

void sim_file_grow(sim_pool *pool, sim_file *f, uint64_t size)
{
    if (size <= f->cur_size)
        return;
    (void)add_op(pool, f, OP_GROW, size, 0, 0, 0);
    f->cur_size = size;
}

void sim_file_truncate(sim_pool *pool, sim_file *f, uint64_t size)
{
    (void)add_op(pool, f, OP_TRUNCATE, size, 0, size / SIM_PAGE, UINT64_MAX / SIM_PAGE);
    sim_map_zero(pool, &f->cur, size, UINT64_MAX);
    f->cur_size = size;
}

void sim_file_punch(sim_pool *pool, sim_file *f, uint64_t off, uint64_t n)
{
    if (off >= f->cur_size || n == 0)
        return;
    uint64_t end = n < f->cur_size - off ? off + n : pages_to(f->cur_size) * SIM_PAGE;
    (void)add_op(pool, f, OP_PUNCH, off, end - off, off / SIM_PAGE, pages_to(end));
    sim_map_zero(pool, &f->cur, off, end);
}

void sim_file_allocate(sim_pool *pool, sim_file *f, uint64_t off, uint64_t n)
{
    if (n == 0)
        return;
    (void)add_op(pool, f, OP_ALLOCATE, off, n, off / SIM_PAGE, pages_to(off + n));
    sim_map_reserve(pool, &f->cur, off / SIM_PAGE, pages_to(off + n));
    if (off + n > f->cur_size)
        f->cur_size = off + n;
}

static int is_data(const sim_pool *pool, const sim_map *m, uint64_t index)
{
    const sim_page *p = sim_map_get(m, index);
    return p && p != &pool->zero;
}

int sim_file_next_data(const sim_pool *pool, const sim_file *f, uint64_t off, uint64_t *start, uint64_t *end)
{
    uint64_t i = off / SIM_PAGE;
    if (off >= f->cur_size)
        return 0;
    while (sim_map_next(&f->cur, i, &i) && !is_data(pool, &f->cur, i))
        i++;
    if (!is_data(pool, &f->cur, i) || i * SIM_PAGE >= f->cur_size)
        return 0;
    *start = i * SIM_PAGE > off ? i * SIM_PAGE : off;
    while (is_data(pool, &f->cur, i))
        i++;
    *end = i * SIM_PAGE < f->cur_size ? i * SIM_PAGE : f->cur_size;
    return 1;
}

/* --- what becomes durable ----------------------------------------------------------------------------------------- */

static int reaches(const struct tear *t, uint64_t sector)
{
    if (t->style == WHOLE)
        return 1;
    if (t->style == SPAN_LOST)
        return sector < t->from || sector >= t->to;
    uint64_t state = t->salt ^ sector * 0x9e3779b97f4a7c15ull;
    return (int)(sim_rand(&state) >> 63);
}

/* A third each: only a prefix, all but a span, any subset. */
static struct tear draw_tear(uint64_t sectors, uint64_t *rand)
{
    uint64_t style = sim_rand(rand) % 3, a = sim_rand(rand) % sectors, b = sim_rand(rand);
    if (style == 0)
        return (struct tear){.style = SPAN_LOST, .from = a, .to = sectors};
    if (style == 1)
        return (struct tear){.style = SPAN_LOST, .from = a, .to = a + 1 + b % (sectors - a)};
    return (struct tear){.style = RANDOM, .salt = b};
}

/* The sectors that reach the disk. Returns the byte after the last of them, not past the write's end; or 0. */
static uint64_t persist_write(sim_pool *pool, sim_file *f, const sim_op *op, const struct tear *t)
{
    uint64_t first = op->off / SIM_SECTOR, stop = (op->off + op->n - 1) / SIM_SECTOR + 1, reached = 0;
    for (uint64_t i = op->page; i < op->end; i++) {
        const uint64_t per = SIM_PAGE / SIM_SECTOR;
        uint64_t a = i * per > first ? i * per : first, b = (i + 1) * per < stop ? (i + 1) * per : stop;
        sim_page *now = op->pages[i - op->page], *mixed = NULL;
        uint64_t kept = 0;
        for (uint64_t s = a; s < b; s++)
            kept += (uint64_t)reaches(t, s - first);
        if (kept == 0)
            continue;
        if (kept < per) {
            mixed = sim_page_copy(pool, sim_map_get(&f->dur, i));
            for (uint64_t s = a; s < b; s++)
                if (reaches(t, s - first))
                    memcpy(mixed->data + s % per * SIM_SECTOR, now->data + s % per * SIM_SECTOR, SIM_SECTOR);
        }
        for (uint64_t s = a; s < b; s++)
            if (reaches(t, s - first))
                reached = (s + 1) * SIM_SECTOR;
        sim_map_set(pool, &f->dur, i, mixed ? mixed : now);
        if (mixed)
            sim_page_unref(pool, mixed);
    }
    return reached < op->off + op->n ? reached : op->off + op->n;
}

/* What an operation other than a write does; returns the size that it asks for, 0: none. */
static uint64_t persist_other(sim_pool *pool, sim_file *f, const sim_op *op)
{
    if (op->kind == OP_ALLOCATE)
        sim_map_reserve(pool, &f->dur, op->page, op->end);
    if (op->kind == OP_PUNCH)
        sim_map_zero(pool, &f->dur, op->off, op->off + op->n);
    if (op->kind == OP_TRUNCATE) {
        sim_map_zero(pool, &f->dur, op->off, UINT64_MAX);
        f->dur_size = op->off;
    }
    return op->kind == OP_GROW || op->kind == OP_TRUNCATE ? op->off : op->kind == OP_ALLOCATE ? op->off + op->n : 0;
}

static void persist(sim_pool *pool, sim_file *f, const sim_op *op, const sim_fate *fate)
{
    /* Drawn for every operation, so that the fate of one does not depend on the kind of another. */
    uint64_t draw = sim_rand(fate->rand) % 8, metadata = sim_rand(fate->rand) % 4, size = f->dur_size;
    uint32_t keep = op->in_flight ? 2 : fate->keep, torn = op->in_flight ? 4 : 2;
    int kept = draw < keep;
    if (op->kind == OP_WRITE) {
        uint64_t sectors = (op->off + op->n - 1) / SIM_SECTOR - op->off / SIM_SECTOR + 1, reached = 0;
        struct tear tear = {.style = WHOLE};
        if (!kept && draw < keep + torn) {
            tear = draw_tear(sectors, fate->rand);
            kept = 1;
        }
        if (kept)
            reached = persist_write(pool, f, op, &tear);
        /* The size is metadata: it may have been written although the data was not. */
        size = metadata == 0 ? op->off + op->n : reached;
    } else if (kept) {
        size = persist_other(pool, f, op);
    }
    if (size > f->dur_size)
        f->dur_size = size;
}

/* Seeded: each operation meets its own fate. */
static void persist_some(sim_pool *pool, sim_file *f, const sim_fate *fate)
{
    for (const sim_op *op = f->first; op; op = op->next)
        if (op->kind != OP_STALE)
            persist(pool, f, op, fate);
    sim_map_zero(pool, &f->dur, f->dur_size, UINT64_MAX);
}

void sim_file_sync(sim_pool *pool, sim_file *f)
{
    for (const sim_op *op = f->first; op; op = op->next)
        if (op->kind != OP_STALE)
            sim_map_copy(pool, &f->dur, &f->cur, op->page, op->end);
    f->dur_size = f->cur_size;
    drop_ops(pool, f);
}

/* Operations up to a number that touch pages [page, end) become durable, in their order. */
static void sync_some(sim_pool *pool, sim_file *f, uint64_t upto, uint64_t page, uint64_t end)
{
    static const struct tear whole = {.style = WHOLE};
    sim_op **at = &f->first, *op, *last = NULL;
    while ((op = *at)) {
        /* One without pages (GROW) changes the size only, for which order does not matter: the largest counts. */
        if (op->kind == OP_STALE || op->number > upto || op->page >= end || (op->end <= page && op->end > op->page)) {
            last = op;
            at = &op->next;
            continue;
        }
        uint64_t size = op->kind == OP_WRITE ? persist_write(pool, f, op, &whole) : persist_other(pool, f, op);
        if (size > f->dur_size)
            f->dur_size = size;
        f->n_ops--;
        if (op->kind == OP_WRITE)
            f->op_pages -= op->end - op->page;
        *at = op->next;
        free_op(pool, op);
    }
    f->last = last;
}

void sim_file_sync_upto(sim_pool *pool, sim_file *f, uint64_t upto)
{
    if (upto >= f->ops_made)
        sim_file_sync(pool, f);
    else
        sync_some(pool, f, upto, 0, UINT64_MAX);
}

void sim_file_sync_write(sim_pool *pool, sim_file *f)
{
    const sim_op *op = f->last;
    if (op && op->kind == OP_WRITE)
        sync_some(pool, f, op->number, op->page, op->end);
}

void sim_file_sync_failed(sim_pool *pool, sim_file *f, const sim_fate *fate)
{
    if (!f->first)
        return;
    persist_some(pool, f, fate);
    uint64_t page = UINT64_MAX, end = 0;
    for (sim_op *op = f->first; op; op = op->next) {
        page = op->page < page ? op->page : page;
        end = op->end > end ? op->end : end;
        if (op->kind == OP_STALE)
            op->kind = OP_GROW; /* its range is in the new one */
    }
    drop_ops(pool, f);
    (void)add_op(pool, f, OP_STALE, 0, 0, page, end);
}

void sim_file_crash(sim_pool *pool, sim_file *f, const sim_fate *fate)
{
    if (fate->mode == CDP_SIM_KEEP)
        sim_file_sync(pool, f);
    else if (fate->mode == CDP_SIM_SEEDED)
        persist_some(pool, f, fate);
    for (sim_op *op = f->first; op; op = op->next) {
        sim_map_copy(pool, &f->cur, &f->dur, op->page, op->end);
        if (op->kind == OP_STALE)
            op->kind = OP_GROW;
    }
    drop_ops(pool, f);
    f->cur_size = f->dur_size;
    if (fate->mode == CDP_SIM_DROP || (fate->mode == CDP_SIM_SEEDED && fate->keep % 2))
        f->changed_ns = f->dur_changed_ns;
    else if (fate->mode == CDP_SIM_SEEDED && fate->keep == 4)
        f->changed_ns = f->latest_ns;
    f->dur_changed_ns = f->latest_ns = f->changed_ns;
}

void sim_file_touch(sim_file *f, uint64_t now_ns)
{
    f->changed_ns = now_ns;
    if (now_ns > f->latest_ns)
        f->latest_ns = now_ns;
}

/* --- damage ------------------------------------------------------------------------------------------------------- */

static int written_since_sync(const sim_file *f, uint64_t byte)
{
    uint64_t a = byte / SIM_SECTOR * SIM_SECTOR, b = a + SIM_SECTOR;
    for (const sim_op *op = f->first; op; op = op->next) {
        int hit = op->kind == OP_WRITE || op->kind == OP_PUNCH ? op->off < b && op->off + op->n > a
                : op->kind == OP_TRUNCATE                      ? op->off < b
                : op->kind == OP_STALE ? byte / SIM_PAGE >= op->page && byte / SIM_PAGE < op->end
                                       : 0;
        if (hit)
            return 1;
    }
    return 0;
}

static void flip(sim_pool *pool, sim_map *m, sim_page *p, uint64_t byte, uint32_t bit)
{
    sim_page *bad = sim_page_copy(pool, p);
    bad->data[byte % SIM_PAGE] ^= (unsigned char)(1u << bit);
    sim_map_set(pool, m, byte / SIM_PAGE, bad);
    sim_page_unref(pool, bad);
}

void sim_file_flip(sim_pool *pool, sim_file *f, uint64_t byte, uint32_t bit)
{
    sim_page *dur = sim_map_get(&f->dur, byte / SIM_PAGE), *cur = sim_map_get(&f->cur, byte / SIM_PAGE);
    int shared = cur == dur, seen = !written_since_sync(f, byte);
    flip(pool, &f->dur, dur, byte, bit);
    if (shared && seen)
        sim_map_set(pool, &f->cur, byte / SIM_PAGE, sim_map_get(&f->dur, byte / SIM_PAGE));
    else if (seen)
        flip(pool, &f->cur, cur, byte, bit);
}

void sim_file_clear(sim_pool *pool, sim_file *f)
{
    for (sim_op *op = f->first; op; op = op->next)
        if (op->kind == OP_STALE)
            op->kind = OP_GROW;
    drop_ops(pool, f);
    sim_map_clear(pool, &f->cur);
    sim_map_clear(pool, &f->dur);
}

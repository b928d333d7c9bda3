/* See os_sim_map.h. The map is a radix tree of 64-way nodes that grows at the root, so that a small file costs one node
 * of 512 bytes and a byte at 2^62 costs nine. */
#include "system/os_sim_map.h"
#include "system/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_node {
    void *slot[SIM_FANOUT]; /* nodes, or pages at the lowest level */
};

#define BITS 6u
_Static_assert(1u << BITS == SIM_FANOUT, "fan-out");
#define MAX_HEIGHT 9u /* 54 bits: pages of a file of 2^63 bytes need 51 */

static void out_of_memory(void)
{
    (void)fputs("os_sim: out of memory\n", stderr);
    abort();
}

void *sim_alloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p)
        out_of_memory();
    return p;
}

void *sim_alloc_zeroed(size_t n)
{
    return memset(sim_alloc(n), 0, n);
}

uint64_t sim_rand(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

struct sim_slab {
    sim_slab *next;
    uint64_t bytes;
    sim_page pages[];
};

/* Pages straight from malloc cost a page fault each, three quarters of the time of a test with large writes; slabs of
 * huge pages cost one in 512. */
static void new_slab(sim_pool *pool)
{
    pool->slab_bytes = pool->slab_bytes == 0 ? SIM_SLAB_BYTES / 32
                     : pool->slab_bytes < SIM_SLAB_BYTES ? pool->slab_bytes * 2
                                                         : SIM_SLAB_BYTES;
    sim_slab *slab = cdp_os_posix()->pages(NULL, pool->slab_bytes);
    if (!slab)
        out_of_memory();
    slab->next = pool->slabs;
    slab->bytes = pool->slab_bytes;
    pool->slabs = slab;
    pool->next = slab->pages;
    pool->limit = slab->pages + (slab->bytes - sizeof *slab) / sizeof(sim_page);
}

sim_page *sim_page_new(sim_pool *pool)
{
    sim_page *p = pool->free;
    if (p) {
        pool->free = p->next_free;
    } else {
        if (pool->next == pool->limit)
            new_slab(pool);
        p = pool->next++;
    }
    p->refs = 1;
    return p;
}

sim_page *sim_page_copy(sim_pool *pool, const sim_page *like)
{
    sim_page *p = sim_page_new(pool);
    if (like)
        memcpy(p->data, like->data, SIM_PAGE);
    else
        memset(p->data, 0, SIM_PAGE);
    return p;
}

void sim_page_ref(sim_page *p) { p->refs++; }

void sim_page_unref(sim_pool *pool, sim_page *p)
{
    if (--p->refs)
        return;
    if (p == &pool->zero) {
        p->refs = 1;
        return;
    }
    p->next_free = pool->free;
    pool->free = p;
}

void sim_pool_empty(sim_pool *pool)
{
    while (pool->slabs) {
        sim_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        cdp_os_posix()->free_pages(NULL, slab, slab->bytes);
    }
    pool->free = pool->next = pool->limit = NULL;
}

static int in_map(const sim_map *m, uint64_t index) { return m->height && index >> (BITS * m->height) == 0; }

/* The slot of a page number; NULL where its node is missing. *left: how many slots the leaf has from there on. */
static void **slot_of(const sim_map *m, uint64_t index, uint64_t *left)
{
    *left = SIM_FANOUT - index % SIM_FANOUT;
    if (!in_map(m, index))
        return NULL;
    sim_node *node = m->root;
    for (uint32_t level = m->height; level > 1 && node; level--)
        node = node->slot[index >> (BITS * (level - 1)) & (SIM_FANOUT - 1)];
    return node ? &node->slot[index & (SIM_FANOUT - 1)] : NULL;
}

/* As slot_of, making what is missing. */
static void **make_slot(sim_map *m, uint64_t index, uint64_t *left)
{
    *left = SIM_FANOUT - index % SIM_FANOUT;
    if (!m->root) {
        m->root = sim_alloc_zeroed(sizeof *m->root);
        m->height = 1;
    }
    while (!in_map(m, index)) {
        sim_node *top = sim_alloc_zeroed(sizeof *top);
        top->slot[0] = m->root;
        m->root = top;
        m->height++;
    }
    sim_node *node = m->root;
    for (uint32_t level = m->height; level > 1; level--) {
        void **s = &node->slot[index >> (BITS * (level - 1)) & (SIM_FANOUT - 1)];
        if (!*s)
            *s = sim_alloc_zeroed(sizeof *node);
        node = *s;
    }
    return &node->slot[index & (SIM_FANOUT - 1)];
}

static void put(sim_pool *pool, sim_map *m, void **slot, sim_page *p)
{
    sim_page *old = *slot;
    if (old == p)
        return;
    if (p)
        sim_page_ref(p);
    uint64_t change = (uint64_t)(p != NULL) - (uint64_t)(old != NULL);
    m->count += change;
    if (m->used)
        *m->used += change;
    *slot = p;
    if (old)
        sim_page_unref(pool, old);
}

void sim_map_charge(sim_map *m, uint64_t *used)
{
    if (m->used)
        *m->used -= m->count;
    m->used = used;
    if (used)
        *used += m->count;
}

sim_page *sim_map_get(const sim_map *m, uint64_t index)
{
    uint64_t left;
    void **slot = slot_of(m, index, &left);
    return slot ? *slot : NULL;
}

void sim_map_set(sim_pool *pool, sim_map *m, uint64_t index, sim_page *p)
{
    uint64_t left;
    void **slot = p ? make_slot(m, index, &left) : slot_of(m, index, &left);
    if (slot)
        put(pool, m, slot, p);
}

/* In the subtree of a node that begins at page number `base`. */
static int next_in(const sim_node *node, uint32_t level, uint64_t base, uint64_t index, uint64_t *found)
{
    uint64_t span = 1ull << (BITS * (level - 1));
    uint64_t i = index > base ? (index - base) / span : 0;
    for (; i < SIM_FANOUT; i++) {
        if (!node->slot[i])
            continue;
        uint64_t at = base + i * span;
        if (level == 1) {
            *found = at;
            return 1;
        }
        if (next_in(node->slot[i], level - 1, at, index, found))
            return 1;
    }
    return 0;
}

int sim_map_next(const sim_map *m, uint64_t index, uint64_t *found)
{
    return in_map(m, index) && next_in(m->root, m->height, 0, index, found);
}

void sim_map_drop(sim_pool *pool, sim_map *m, uint64_t from, uint64_t to)
{
    uint64_t left;
    while (from < to && sim_map_next(m, from, &from) && from < to) {
        void **slot = slot_of(m, from, &left);
        for (; left && from < to; left--, from++, slot++)
            put(pool, m, slot, NULL);
    }
}

void sim_map_copy(sim_pool *pool, sim_map *dst, const sim_map *src, uint64_t from, uint64_t to)
{
    uint64_t a, b, left;
    while (from < to) {
        int more_src = sim_map_next(src, from, &a);
        int more_dst = sim_map_next(dst, from, &b);
        if (!more_src && !more_dst)
            return;
        from = !more_dst || (more_src && a < b) ? a : b;
        if (from >= to)
            return;
        void **s = slot_of(src, from, &left);
        void **d = s ? make_slot(dst, from, &left) : slot_of(dst, from, &left);
        for (; left && from < to; left--, from++, d++)
            put(pool, dst, d, s ? *s++ : NULL);
    }
}

uint64_t sim_map_count(const sim_map *m, uint64_t from, uint64_t to)
{
    uint64_t n = 0, left;
    while (from < to && sim_map_next(m, from, &from) && from < to) {
        void **slot = slot_of(m, from, &left);
        for (; left && from < to; left--, from++)
            n += *slot++ != NULL;
    }
    return n;
}

void sim_map_reserve(sim_pool *pool, sim_map *m, uint64_t from, uint64_t to)
{
    uint64_t left;
    while (from < to) {
        void **slot = make_slot(m, from, &left);
        for (; left && from < to; left--, from++, slot++)
            if (!*slot)
                put(pool, m, slot, &pool->zero);
    }
}

/* Zero [a, b) inside one page. */
static void zero_part(sim_pool *pool, sim_map *m, uint64_t index, uint64_t a, uint64_t b)
{
    sim_page *old = sim_map_get(m, index);
    if (!old || old == &pool->zero)
        return;
    sim_page *p = sim_page_copy(pool, old);
    memset(p->data + a, 0, b - a);
    sim_map_set(pool, m, index, p);
    sim_page_unref(pool, p);
}

void sim_map_zero(sim_pool *pool, sim_map *m, uint64_t off, uint64_t end)
{
    if (off >= end)
        return;
    uint64_t first = off / SIM_PAGE, last = end / SIM_PAGE;
    if (off % SIM_PAGE) {
        zero_part(pool, m, first, off % SIM_PAGE, first == last ? end % SIM_PAGE : SIM_PAGE);
        first++;
    }
    if (first > last)
        return;
    if (end % SIM_PAGE)
        zero_part(pool, m, last, 0, end % SIM_PAGE);
    sim_map_drop(pool, m, first, last);
}

static void free_node(sim_pool *pool, sim_map *m, sim_node *node, uint32_t level)
{
    for (uint32_t i = 0; i < SIM_FANOUT; i++) {
        if (!node->slot[i])
            continue;
        if (level > 1)
            free_node(pool, m, node->slot[i], level - 1);
        else
            put(pool, m, &node->slot[i], NULL);
    }
    free(node);
}

void sim_map_clear(sim_pool *pool, sim_map *m)
{
    if (m->root)
        free_node(pool, m, m->root, m->height);
    m->root = NULL;
    m->height = 0;
}

/* Memory of the simulated disk: reference-counted 4 KiB pages, and sparse maps from a page number to a page.
 *
 * A write's data is copied once, into new pages; the cached content, the list of un-synced operations and the durable
 * content then share them. So a page is never changed while anything else refers to it.
 *
 * Invariants
 *  1. A map holds one reference to each page in it.
 *  2. pool.zero stands for space that is reserved but was never written; it reads as zeros and is never freed.
 *  3. *map.used, where there is one, counts the pages of all maps that share the counter.
 *
 * Threading: none; the simulator's mutex is held. Out of memory ends the process (this is a test instrument). */
#ifndef CDP_OS_SIM_MAP_H
#define CDP_OS_SIM_MAP_H
#include <stddef.h>
#include <stdint.h>

#define SIM_PAGE 4096u
#define SIM_SECTOR 512u
#define SIM_FANOUT 64u
#define SIM_SLAB_BYTES (2ull << 20)

typedef struct sim_page {
    struct sim_page *next_free;
    uint64_t refs;
    unsigned char data[SIM_PAGE];
} sim_page;

typedef struct sim_slab sim_slab;
typedef struct sim_pool {
    sim_page *free;
    sim_slab *slabs;        /* memory that pages are cut from, newest first */
    uint64_t slab_bytes;    /* of the newest; they double up to SIM_SLAB_BYTES */
    sim_page *next, *limit; /* what was not cut yet */
    sim_page zero;
} sim_pool;

typedef struct sim_node sim_node;
typedef struct sim_map {
    sim_node *root;
    uint32_t height; /* levels; a map of height h has room for SIM_FANOUT^h pages */
    uint64_t count;  /* pages */
    uint64_t *used;  /* of all maps that share it, may be NULL */
} sim_map;

/* malloc and calloc that do not return NULL. */
void *sim_alloc(size_t n);
void *sim_alloc_zeroed(size_t n);

/* splitmix64: the next number of a stream. */
uint64_t sim_rand(uint64_t *state);

/* A new page with one reference, its bytes undefined, or a copy of `like` (NULL: zeros). */
sim_page *sim_page_new(sim_pool *pool);
sim_page *sim_page_copy(sim_pool *pool, const sim_page *like);
void sim_page_ref(sim_page *p);
void sim_page_unref(sim_pool *pool, sim_page *p);
void sim_pool_empty(sim_pool *pool);

sim_page *sim_map_get(const sim_map *m, uint64_t index);
/* Takes a reference of its own; NULL removes. */
void sim_map_set(sim_pool *pool, sim_map *m, uint64_t index, sim_page *p);
/* 1 and the first page number >= index that has a page; 0: none. */
int sim_map_next(const sim_map *m, uint64_t index, uint64_t *found);
/* Remove the pages of [from, to). */
void sim_map_drop(sim_pool *pool, sim_map *m, uint64_t from, uint64_t to);
/* From now on the map's pages are part of *used, or (NULL) of no sum. */
void sim_map_charge(sim_map *m, uint64_t *used);
/* Make the pages [from, to) of dst those of src. */
void sim_map_copy(sim_pool *pool, sim_map *dst, const sim_map *src, uint64_t from, uint64_t to);
/* How many pages of [from, to) there are. */
uint64_t sim_map_count(const sim_map *m, uint64_t from, uint64_t to);
/* Put pool->zero where [from, to) has no page. */
void sim_map_reserve(sim_pool *pool, sim_map *m, uint64_t from, uint64_t to);
/* The bytes [off, end) become zeros; whole pages are removed. */
void sim_map_zero(sim_pool *pool, sim_map *m, uint64_t off, uint64_t end);
void sim_map_clear(sim_pool *pool, sim_map *m);

#endif

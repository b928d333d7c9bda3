/* The simulator's controls: its life, the power, faults and counters. See os_sim.h. */
#include "system/os_sim_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SPACE (1ull << 40)
#define DEFAULT_SPACE (8ull << 30)
#define CLOCK_START_NS 1767225600000000000ull /* 2026-01-01T00:00:00Z */
#define CLOCK_STEP_NS 1000

cdp_sim *cdp_sim_new(uint64_t seed)
{
    cdp_sim *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    if (pthread_mutex_init(&s->mutex, NULL)) {
        free(s);
        return NULL;
    }
    s->table = sim_table;
    s->table.ctx = s;
    sim_tree_init(&s->tree);
    s->powered = s->sparse = 1;
    s->cut_in = UINT64_MAX;
    s->space_pages = DEFAULT_SPACE / SIM_PAGE;
    s->clock_ns = CLOCK_START_NS;
    s->clock_step_ns = CLOCK_STEP_NS;
    s->rand_fate = seed;
    s->rand_bytes = ~seed;
    s->rand_bytes = sim_rand(&s->rand_bytes);
    s->rand_order = s->rand_bytes ^ 0x9e3779b97f4a7c15ull;
    return s;
}

/* The power went. */
static void free_handles(cdp_sim *s)
{
    for (sim_handle *h = s->handles; h < s->handles + SIM_SLOTS; h++) {
        h->lost = h->generation;
        if (h->inode)
            sim_free_handle(s, h);
    }
}

void cdp_sim_free(cdp_sim *s)
{
    if (!s)
        return;
    free_handles(s);
    while (s->maps) {
        sim_mapping *m = s->maps;
        s->maps = m->next;
        free(m->addr);
        free(m);
    }
    sim_tree_free(&s->tree);
    (void)pthread_mutex_destroy(&s->mutex);
    free(s);
}

const cdp_os *cdp_sim_os(cdp_sim *s) { return &s->table; }

static uint64_t get(cdp_sim *s, const uint64_t *field)
{
    (void)sim_lock(s);
    uint64_t v = *field;
    sim_unlock(s);
    return v;
}

uint64_t cdp_sim_calls(cdp_sim *s) { return get(s, &s->calls); }
uint64_t cdp_sim_open_handles(cdp_sim *s) { return get(s, &s->n_handles); }
uint64_t cdp_sim_open_maps(cdp_sim *s) { return get(s, &s->n_maps); }
uint64_t cdp_sim_open_queues(cdp_sim *s) { return get(s, &s->n_queues); }
uint64_t cdp_sim_misuse(cdp_sim *s) { return get(s, &s->misuse); }
uint64_t cdp_sim_space_used(cdp_sim *s) { return get(s, &s->tree.used_pages) * SIM_PAGE; }

uint64_t cdp_sim_count(cdp_sim *s, uint32_t call)
{
    uint64_t all = 0;
    if (call != CDP_SIM_ANY)
        return call < CDP_SIM_N_CALLS ? get(s, &s->counts[call]) : 0;
    for (uint32_t i = 1; i <= CDP_SIM_LIST_DIR; i++)
        all += get(s, &s->counts[i]);
    return all;
}

void cdp_sim_cut_at(cdp_sim *s, uint64_t n)
{
    (void)sim_lock(s);
    s->cut_in = n ? n : UINT64_MAX;
    if (n == 0 && s->powered) {
        sim_cut_queues(s);
        s->powered = 0;
    }
    sim_unlock(s);
}

int cdp_sim_powered(cdp_sim *s)
{
    (void)sim_lock(s);
    int powered = s->powered;
    sim_unlock(s);
    return powered;
}

int cdp_sim_power_on(cdp_sim *s, uint32_t mode)
{
    if (mode > CDP_SIM_KILLED)
        return -EINVAL;
    (void)sim_lock(s);
    sim_fate fate = sim_draw_fate(s, mode);
    free_handles(s);
    if (mode != CDP_SIM_KILLED)
        sim_tree_crash(&s->tree, &fate);
    s->powered = 1;
    s->cut_in = UINT64_MAX;
    sim_unlock(s);
    return 0;
}

static int arm(cdp_sim *s, sim_fault new_fault, const char *part)
{
    if (part && strlen(part) >= SIM_PART_BYTES)
        return -EINVAL;
    if (new_fault.n == 0 || new_fault.times == 0 || new_fault.call >= CDP_SIM_N_CALLS)
        return -EINVAL;
    if (part)
        memcpy(new_fault.part, part, strlen(part) + 1);
    (void)sim_lock(s);
    int rc = -ENOSPC;
    for (sim_fault *f = s->faults; f < s->faults + SIM_MAX_FAULTS && rc; f++)
        if (f->verdict == GO) {
            *f = new_fault;
            rc = 0;
        }
    sim_unlock(s);
    return rc;
}

int cdp_sim_fail(cdp_sim *s, uint32_t call, const char *part, uint64_t n, uint64_t times, int err)
{
    return err > 0 ? arm(s, (sim_fault){.verdict = -err, .call = call, .n = n, .times = times}, part) : -EINVAL;
}

int cdp_sim_lose_write(cdp_sim *s, const char *part, uint64_t n)
{
    return arm(s, (sim_fault){.verdict = LOSE, .call = CDP_SIM_PWRITE, .n = n, .times = 1}, part);
}

int cdp_sim_misdirect_write(cdp_sim *s, const char *part, uint64_t n, int64_t delta)
{
    return arm(s, (sim_fault){.verdict = MISDIRECT, .call = CDP_SIM_PWRITE, .n = n, .times = 1, .delta = delta}, part);
}

void cdp_sim_clear_faults(cdp_sim *s)
{
    (void)sim_lock(s);
    memset(s->faults, 0, sizeof s->faults);
    sim_unlock(s);
}

int cdp_sim_flip(cdp_sim *s, const char *path, uint64_t byte, uint32_t bit)
{
    (void)sim_lock(s);
    sim_inode *ino;
    int rc = sim_find(&s->tree, path, &ino);
    if (rc == 0 && ino->is_dir)
        rc = -EISDIR;
    if (rc == 0 && (bit > 7 || byte >= ino->file.dur_size))
        rc = -EINVAL;
    if (rc == 0)
        sim_file_flip(&s->tree.pool, &ino->file, byte, bit);
    sim_unlock(s);
    return rc;
}

int cdp_sim_set_space(cdp_sim *s, uint64_t bytes)
{
    if (bytes > MAX_SPACE)
        return -EINVAL;
    (void)sim_lock(s);
    s->space_pages = bytes / SIM_PAGE;
    sim_unlock(s);
    return 0;
}

void cdp_sim_set_sparse(cdp_sim *s, int on)
{
    (void)sim_lock(s);
    s->sparse = on != 0;
    sim_unlock(s);
}

void cdp_sim_set_clock(cdp_sim *s, uint64_t ns, int64_t step)
{
    (void)sim_lock(s);
    s->clock_ns = ns;
    s->clock_step_ns = step;
    sim_unlock(s);
}

/* See os_sim_tree.h. */
#include "system/os_sim_tree.h"
#include "system/os_sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct sim_name_op {
    sim_name_op *next;
    sim_inode *from_dir; /* NULL: no name goes */
    sim_inode *to_dir;   /* NULL: no name comes */
    sim_inode *inode;    /* what is named */
    sim_inode *moved;    /* directories that were moved ... */
    sim_inode *gone;     /* ... or removed: what happened in them comes first */
    int commit;
    char *from, *to;
};

/* --- inodes and entries ------------------------------------------------------------------------------------------- */

static sim_inode *new_inode(sim_tree *t, int is_dir)
{
    sim_inode *ino = sim_alloc_zeroed(sizeof *ino);
    ino->refs = 1;
    ino->is_dir = is_dir;
    ino->next = t->all;
    if (t->all)
        t->all->prev = ino;
    t->all = ino;
    return ino;
}

static void drop_ref(sim_tree *t, sim_inode *ino, int current)
{
    if (current)
        sim_inode_unuse(t, ino);
    else
        sim_inode_unref(t, ino);
}

static void clear_entries(sim_tree *t, sim_entries *e, int current)
{
    for (uint64_t i = 0; i < e->n; i++) {
        free(e->v[i].name);
        drop_ref(t, e->v[i].inode, current);
    }
    free(e->v);
    *e = (sim_entries){0};
}

void sim_inode_unref(sim_tree *t, sim_inode *ino)
{
    if (!ino || --ino->refs)
        return;
    clear_entries(t, &ino->cur, 1);
    clear_entries(t, &ino->dur, 0);
    sim_file_clear(&t->pool, &ino->file);
    *(ino->prev ? &ino->prev->next : &t->all) = ino->next;
    if (ino->next)
        ino->next->prev = ino->prev;
    free(ino);
}

void sim_inode_use(sim_tree *t, sim_inode *ino)
{
    ino->refs++;
    if (ino->uses++ == 0)
        sim_map_charge(&ino->file.cur, &t->used_pages);
}

void sim_inode_unuse(sim_tree *t, sim_inode *ino)
{
    if (--ino->uses == 0)
        sim_map_charge(&ino->file.cur, NULL);
    sim_inode_unref(t, ino);
}

/* Where a name is, or belongs. */
static uint64_t place(const sim_entries *e, const char *name, int *found)
{
    uint64_t lo = 0, hi = e->n;
    while (lo < hi) {
        uint64_t mid = (lo + hi) / 2;
        int c = strcmp(e->v[mid].name, name);
        if (c == 0) {
            *found = 1;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    *found = 0;
    return lo;
}

static sim_inode *look(const sim_entries *e, const char *name)
{
    int found;
    uint64_t i = place(e, name, &found);
    return found ? e->v[i].inode : NULL;
}

static void set_entry(sim_tree *t, sim_entries *e, const char *name, sim_inode *ino, int current)
{
    int found;
    uint64_t i = place(e, name, &found);
    if (current)
        sim_inode_use(t, ino);
    else
        ino->refs++;
    if (found) {
        sim_inode *old = e->v[i].inode;
        e->v[i].inode = ino;
        drop_ref(t, old, current);
        return;
    }
    if (e->n == e->cap) {
        sim_entry *v = sim_alloc((e->cap * 2 + 8) * sizeof *v);
        if (e->n)
            memcpy(v, e->v, e->n * sizeof *v);
        free(e->v);
        e->v = v;
        e->cap = e->cap * 2 + 8;
    }
    memmove(&e->v[i + 1], &e->v[i], (e->n - i) * sizeof *e->v);
    size_t n = strlen(name) + 1;
    e->v[i] = (sim_entry){.name = memcpy(sim_alloc(n), name, n), .inode = ino};
    e->n++;
}

static void remove_entry(sim_tree *t, sim_entries *e, const char *name, int current)
{
    int found;
    uint64_t i = place(e, name, &found);
    if (!found)
        return;
    sim_entry gone = e->v[i];
    e->n--;
    memmove(&e->v[i], &e->v[i + 1], (e->n - i) * sizeof *e->v);
    free(gone.name);
    drop_ref(t, gone.inode, current);
}

/* --- paths -------------------------------------------------------------------------------------------------------- */

/* The directory that a path's last name is in, and that name ("" for the root itself). */
static int walk(const sim_tree *t, const char *path, sim_inode **dir, char name[SIM_MAX_NAME + 1])
{
    sim_inode *at = t->root;
    *dir = at;
    name[0] = 0;
    for (;;) {
        while (*path == '/')
            path++;
        size_t n = strcspn(path, "/");
        if (n == 0)
            return 0;
        if (n > SIM_MAX_NAME)
            return -ENAMETOOLONG;
        if (n == 1 && path[0] == '.') {
            path++;
            continue;
        }
        if (n == 2 && path[0] == '.' && path[1] == '.')
            return -EINVAL;
        if (name[0])
            at = look(&at->cur, name);
        if (!at)
            return -ENOENT;
        if (!at->is_dir)
            return -ENOTDIR;
        *dir = at;
        memcpy(name, path, n);
        name[n] = 0;
        path += n;
    }
}

int sim_find(const sim_tree *t, const char *path, sim_inode **out)
{
    char name[SIM_MAX_NAME + 1];
    sim_inode *dir;
    int rc = walk(t, path, &dir, name);
    if (rc)
        return rc;
    *out = name[0] ? look(&dir->cur, name) : dir;
    return *out ? 0 : -ENOENT;
}

static int find_dir(const sim_tree *t, const char *path, sim_inode **out)
{
    int rc = sim_find(t, path, out);
    return rc ? rc : (*out)->is_dir ? 0 : -ENOTDIR;
}

int64_t sim_list(const sim_tree *t, const char *path, char *buf, uint64_t cap)
{
    sim_inode *dir;
    int rc = find_dir(t, path, &dir);
    if (rc)
        return rc;
    uint64_t need = 0;
    for (uint64_t i = 0; i < dir->cur.n; i++)
        need += strlen(dir->cur.v[i].name) + 1;
    for (uint64_t i = 0; i < dir->cur.n && need <= cap; i++) {
        size_t n = strlen(dir->cur.v[i].name) + 1;
        memcpy(buf, dir->cur.v[i].name, n);
        buf += n;
    }
    return (int64_t)need;
}

/* --- operations --------------------------------------------------------------------------------------------------- */

/* To the current entries, or to the durable ones. */
static void apply(sim_tree *t, const sim_name_op *op, int current)
{
    if (op->from_dir)
        remove_entry(t, current ? &op->from_dir->cur : &op->from_dir->dur, op->from, current);
    if (op->to_dir)
        set_entry(t, current ? &op->to_dir->cur : &op->to_dir->dur, op->to, op->inode, current);
}

static void free_name_op(sim_tree *t, sim_name_op *op)
{
    sim_inode_unref(t, op->from_dir);
    sim_inode_unref(t, op->to_dir);
    sim_inode_unref(t, op->inode);
    sim_inode_unref(t, op->moved);
    sim_inode_unref(t, op->gone);
    free(op->from);
    free(op->to);
    free(op);
}

/* Make durable, and take off the list, the operations that are marked, or all. */
static void commit(sim_tree *t, int all)
{
    sim_name_op *op = t->first;
    t->first = t->last = NULL;
    t->n_ops = 0;
    while (op) {
        sim_name_op *next = op->next;
        if (all || op->commit) {
            apply(t, op, 0);
            free_name_op(t, op);
        } else {
            op->next = NULL;
            if (t->last)
                t->last->next = op;
            else
                t->first = op;
            t->last = op;
            t->n_ops++;
        }
        op = next;
    }
}

static sim_inode *ref(sim_inode *ino)
{
    if (ino)
        ino->refs++;
    return ino;
}

static char *copy_name(const char *name) { return strcpy(sim_alloc(strlen(name) + 1), name); }

/* Do it now, and put it on the list. */
static void do_op(sim_tree *t, sim_inode *from_dir, const char *from, sim_inode *to_dir, const char *to, sim_inode *ino,
                  sim_inode *gone)
{
    if (t->n_ops >= SIM_MAX_NAME_OPS)
        commit(t, 1);
    sim_name_op *op = sim_alloc(sizeof *op);
    *op = (sim_name_op){.from_dir = ref(from_dir), .to_dir = ref(to_dir), .inode = ref(ino), .gone = ref(gone),
                        .moved = from_dir && ino && ino->is_dir ? ref(ino) : NULL,
                        .from = from_dir ? copy_name(from) : NULL, .to = to_dir ? copy_name(to) : NULL};
    if (t->last)
        t->last->next = op;
    else
        t->first = op;
    t->last = op;
    t->n_ops++;
    apply(t, op, 1);
}

int sim_create(sim_tree *t, const char *path, int is_dir, sim_inode **out)
{
    char name[SIM_MAX_NAME + 1];
    sim_inode *dir;
    int rc = walk(t, path, &dir, name);
    if (rc)
        return rc;
    if (!name[0] || look(&dir->cur, name))
        return -EEXIST;
    sim_inode *ino = new_inode(t, is_dir);
    do_op(t, NULL, NULL, dir, name, ino, NULL);
    ino->refs--; /* the entry and the operation have theirs */
    *out = ino;
    return 0;
}

int sim_remove(sim_tree *t, const char *path, int is_dir)
{
    char name[SIM_MAX_NAME + 1];
    sim_inode *dir;
    int rc = walk(t, path, &dir, name);
    if (rc)
        return rc;
    if (!name[0])
        return is_dir ? -EBUSY : -EISDIR;
    sim_inode *ino = look(&dir->cur, name);
    if (!ino)
        return -ENOENT;
    if (ino->is_dir != is_dir)
        return is_dir ? -ENOTDIR : -EISDIR;
    if (ino->cur.n)
        return -ENOTEMPTY;
    do_op(t, dir, name, NULL, NULL, NULL, is_dir ? ino : NULL);
    return 0;
}

/* Whether `dir` is `ino` or lies below it. */
static int lies_in(const sim_inode *dir, const sim_inode *ino)
{
    if (dir == ino)
        return 1;
    for (uint64_t i = 0; i < ino->cur.n; i++)
        if (ino->cur.v[i].inode->is_dir && lies_in(dir, ino->cur.v[i].inode))
            return 1;
    return 0;
}

int sim_rename(sim_tree *t, const char *from, const char *to)
{
    char from_name[SIM_MAX_NAME + 1], to_name[SIM_MAX_NAME + 1];
    sim_inode *from_dir, *to_dir;
    int rc = walk(t, from, &from_dir, from_name);
    if (rc == 0)
        rc = walk(t, to, &to_dir, to_name);
    if (rc)
        return rc;
    if (!from_name[0] || !to_name[0])
        return -EBUSY;
    sim_inode *ino = look(&from_dir->cur, from_name), *old = look(&to_dir->cur, to_name);
    if (!ino)
        return -ENOENT;
    if (ino == old)
        return 0;
    if (ino->is_dir && lies_in(to_dir, ino))
        return -EINVAL;
    if (old && old->is_dir != ino->is_dir)
        return old->is_dir ? -EISDIR : -ENOTDIR;
    if (old && old->cur.n)
        return -ENOTEMPTY;
    do_op(t, from_dir, from_name, to_dir, to_name, ino, old && old->is_dir ? old : NULL);
    return 0;
}

static int touches(const sim_name_op *op, const sim_inode *dir)
{
    return dir && (op->from_dir == dir || op->to_dir == dir || op->moved == dir || op->gone == dir);
}

int sim_sync_names(sim_tree *t, const char *path)
{
    sim_inode *dir;
    int rc = find_dir(t, path, &dir);
    if (rc)
        return rc;
    for (sim_name_op *op = t->first; op; op = op->next)
        op->commit = op->from_dir == dir || op->to_dir == dir;
    for (int again = 1; again;) {
        again = 0;
        for (sim_name_op *op = t->first; op; op = op->next)
            for (sim_name_op *early = t->first; op->commit && early != op; early = early->next)
                if (!early->commit
                    && (touches(early, op->from_dir) || touches(early, op->to_dir) || touches(early, op->moved)
                        || touches(early, op->gone)))
                    early->commit = again = 1;
    }
    commit(t, 0);
    return 0;
}

/* --- life and death ----------------------------------------------------------------------------------------------- */

static void hold_all(sim_tree *t)
{
    for (sim_inode *ino = t->all; ino; ino = ino->next)
        ino->refs++;
}

/* Frees what nothing but hold_all kept. The next one in the list is still held when this one goes. */
static void release_all(sim_tree *t)
{
    for (sim_inode *ino = t->all, *next; ino; ino = next) {
        next = ino->next;
        sim_inode_unref(t, ino);
    }
}

void sim_tree_init(sim_tree *t)
{
    *t = (sim_tree){0};
    t->pool.zero.refs = 1;
    t->root = new_inode(t, 1);
}

void sim_tree_free(sim_tree *t)
{
    commit(t, 1);
    hold_all(t);
    for (sim_inode *ino = t->all; ino; ino = ino->next) {
        clear_entries(t, &ino->cur, 1);
        clear_entries(t, &ino->dur, 0);
    }
    sim_inode_unref(t, t->root);
    release_all(t);
    sim_pool_empty(&t->pool);
}

static void read_durable(sim_tree *t, sim_inode *dir)
{
    for (uint64_t i = 0; i < dir->dur.n; i++)
        set_entry(t, &dir->cur, dir->dur.v[i].name, dir->dur.v[i].inode, 1);
}

void sim_tree_crash(sim_tree *t, const sim_fate *fate)
{
    uint64_t survive = fate->mode == CDP_SIM_KEEP   ? t->n_ops
                     : fate->mode == CDP_SIM_SEEDED ? sim_rand(fate->rand) % (t->n_ops + 1)
                                                    : 0;
    while (t->first) {
        sim_name_op *op = t->first;
        t->first = op->next;
        if (survive) {
            survive--;
            apply(t, op, 0);
        }
        free_name_op(t, op);
    }
    t->last = NULL;
    t->n_ops = 0;
    hold_all(t);
    for (sim_inode *ino = t->all; ino; ino = ino->next) {
        clear_entries(t, &ino->cur, 1);
        read_durable(t, ino);
    }
    release_all(t);
    for (sim_inode *ino = t->all; ino; ino = ino->next)
        sim_file_crash(&t->pool, &ino->file, fate);
}

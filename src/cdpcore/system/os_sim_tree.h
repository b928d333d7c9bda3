/* Names of the simulated disk: inodes, directories, and the operations on names that no sync_dir has made durable.
 *
 * Each directory has current and durable entries. An operation on names changes the current ones at once and waits in
 * one list, in order, as in a journal. sync_dir makes those of its directory durable (and what they depend on: all
 * earlier ones of any directory that such an operation touches, so that a rename is never half durable). A power cut
 * keeps a prefix of what waits. A directory whose own name was not durable is lost with all that is in it.
 *
 * Invariants
 *  1. An inode lives while an entry (current or durable), a handle or a waiting operation refers to it.
 *  2. Applying the waiting operations in order to the durable entries gives the current ones.
 *
 * Threading: none; the simulator's mutex is held. */
#ifndef CDP_OS_SIM_TREE_H
#define CDP_OS_SIM_TREE_H
#include "system/os_sim_file.h"

#define SIM_MAX_NAME 255u
#define SIM_MAX_NAME_OPS 4096u /* more are made durable, as a full journal is written out */

typedef struct sim_inode sim_inode;

typedef struct sim_entry {
    char *name;
    sim_inode *inode;
} sim_entry;

typedef struct sim_entries { /* ascending by name (bytes) */
    sim_entry *v;
    uint64_t n, cap;
} sim_entries;

struct sim_inode {
    sim_inode *prev, *next; /* of all inodes */
    uint64_t refs;
    uint64_t uses;     /* current entries and handles; without one its space counts as free */
    int is_dir;
    int lock;          /* handle that has it, 0: none */
    sim_file file;     /* of a file */
    sim_entries cur, dur; /* of a directory */
};

typedef struct sim_name_op sim_name_op;

typedef struct sim_tree {
    sim_pool pool;
    uint64_t used_pages; /* of the current content of all inodes in use */
    sim_inode *root, *all;
    sim_name_op *first, *last;
    uint64_t n_ops;
} sim_tree;

void sim_tree_init(sim_tree *t);
void sim_tree_free(sim_tree *t);
void sim_inode_unref(sim_tree *t, sim_inode *ino);
/* A reference that counts as a use: an entry that is current, a handle. */
void sim_inode_use(sim_tree *t, sim_inode *ino);
void sim_inode_unuse(sim_tree *t, sim_inode *ino);

/* Paths: names separated by '/', from the root whether or not they begin with it; "." is skipped, ".." refused. The
 * functions return 0 or a negative errno. */
int sim_find(const sim_tree *t, const char *path, sim_inode **out);
int sim_create(sim_tree *t, const char *path, int is_dir, sim_inode **out);
int sim_remove(sim_tree *t, const char *path, int is_dir);
int sim_rename(sim_tree *t, const char *from, const char *to);
int sim_sync_names(sim_tree *t, const char *path);
/* As cdp_os.list_dir. */
int64_t sim_list(const sim_tree *t, const char *path, char *buf, uint64_t cap);
/* The power comes back: names and files. No handle is open. */
void sim_tree_crash(sim_tree *t, const sim_fate *fate);

#endif

/* Random histories, damage and failing calls against the index, checked sector by sector against a list of records.
 *
 *     index_fuzz DIRECTORY SEED ROUNDS
 *
 * Built by tests/core/test_run_damage.py with the address and undefined-behaviour sanitizers. Prints the seed of a
 * failing round; running it with that seed and one round repeats it. */
#define PLAIN_CHECKED 1
#include <stdlib.h>
#include <string.h>
#include "base/crc32c.h"
#include "index/index_impl.h"
#include "plain_os.h"

#define MAX_OPS 1024u
#define MAX_PARTS 6u

typedef struct op {
    uint64_t seq, start, end, loc;
} op;

typedef struct part { /* a segment of the history */
    cdp_tree *tree;
    cdp_run *run;
    uint64_t first_seq, last_seq;
} part;

static uint64_t state, round_seed;
static op ops[MAX_OPS];
static uint32_t n_ops;
static uint64_t base, sectors; /* the history lies in [base, base + sectors) */
static part parts[MAX_PARTS];
static uint32_t n_parts;
static const char *dir;
static const uint8_t uuid[16] = "0123456789abcdef";

static uint64_t rnd(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state * 2685821657736338717ull >> 20) % below;
}

#define CHECK(c) \
    do { \
        if (!(c)) \
            failed(#c, __LINE__); \
    } while (0)

static void failed(const char *what, int line)
{
    fprintf(stderr, "round of seed %llu: line %d: %s\n", (unsigned long long)round_seed, line, what);
    abort();
}

static char *name(char *buf, const char *file)
{
    snprintf(buf, 4096, "%s/%s", dir, file);
    return buf;
}

/* --- the model ------------------------------------------------------------------------------------------------- */

static int in(const cdp_interval *iv, uint32_t n, uint64_t seq)
{
    for (uint32_t i = 0; i < n; i++)
        if (iv[i].lo < seq && seq <= iv[i].hi)
            return 1;
    return 0;
}

/* The newest record that is visible, not dropped and of a seq in [from, to] at a sector. */
static const op *model(uint64_t x, const cdp_interval *iv, uint32_t n_iv, const cdp_interval *dropped,
                       uint32_t n_dropped, uint64_t from, uint64_t to)
{
    for (uint32_t i = n_ops; i-- > 0;) {
        const op *o = &ops[i];
        if (o->start <= x && x < o->end && from <= o->seq && o->seq <= to && in(iv, n_iv, o->seq)
            && !in(dropped, n_dropped, o->seq))
            return o;
    }
    return NULL;
}

static uint32_t random_intervals(cdp_interval *iv, uint32_t most, uint64_t last_seq)
{
    uint32_t n = 1 + (uint32_t)rnd(most);
    uint64_t hi = rnd(4) ? last_seq : UINT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        iv[i].hi = hi == UINT64_MAX && i == 0 ? hi : hi - rnd(hi / 2 + 1);
        hi = iv[i].hi > last_seq ? last_seq : iv[i].hi;
        iv[i].lo = i + 1 == n && rnd(2) ? 0 : hi - rnd(hi + 1);
        hi = iv[i].lo;
    }
    return n;
}

static void check_hit(const cdp_hit *hit, uint64_t x, const cdp_interval *iv, uint32_t n_iv,
                      const cdp_interval *dropped, uint32_t n_dropped, uint64_t from, uint64_t to)
{
    CHECK(hit->until > x);
    for (uint64_t y = x < base ? base : x; y < hit->until && y < base + sectors; y++) {
        const op *o = model(y, iv, n_iv, dropped, n_dropped, from, to);
        CHECK(hit->found == (o != NULL));
        CHECK(o == NULL || (hit->seq == o->seq && cdp_loc_add(hit->loc, y - x) == cdp_loc_add(o->loc, y - o->start)));
    }
}

/* --- histories ------------------------------------------------------------------------------------------------- */

static void make_part(uint32_t n, uint64_t *seq)
{
    part *p = &parts[n_parts];
    char path[4096], file[32];
    cdp_status st;
    cdp_run_meta meta;
    p->tree = cdp_tree_new(MAX_OPS / 2);
    p->first_seq = *seq + 1;
    CHECK(p->tree != NULL);
    for (uint32_t i = 0; i < n && n_ops < MAX_OPS && cdp_tree_has_room(p->tree, 1); i++) {
        static const uint64_t lengths[] = {1, 1, 8, 8, 8, 3, 16, 1000};
        op *o = &ops[n_ops++];
        uint64_t length = lengths[rnd(8)];
        *seq += 1 + rnd(3);
        o->seq = *seq;
        o->start = base + (rnd(3) ? rnd(sectors) / 8 * 8 : rnd(sectors));
        o->end = o->start + length < base + sectors ? o->start + length : base + sectors;
        o->loc = rnd(5) == 0 ? 1 + rnd(2) : cdp_loc(n_parts + 1, (uint64_t)(n_ops * 1000) * 512);
        if (rnd(3) == 0 && n_ops >= 2 && o[-1].end <= o->start && o[-1].seq >= p->first_seq
            && (n_ops == 2 || o[-2].seq < o[-1].seq)) { /* a second part of the same record */
            o->seq = *seq = o[-1].seq;
            o->loc = rnd(2) ? o->loc : cdp_loc_add(o[-1].loc, o->start - o[-1].start);
        }
        cdp_tree_insert(p->tree, o->seq, o->start, o->end, o->loc);
    }
    p->last_seq = *seq > p->first_seq ? *seq : p->first_seq;
    *seq = p->last_seq;
    meta = (cdp_run_meta){{0}, p->first_seq, p->last_seq, n_parts + 1, n_parts + 1};
    memcpy(meta.uuid, uuid, 16);
    snprintf(file, sizeof file, "p%u.run", n_parts);
    CHECK(cdp_run_write_tree(&plain_os, name(path, file), &meta, p->tree, &st) == CDP_OK);
    CHECK(cdp_run_open(&plain_os, path, uuid, &p->run, &st) == CDP_OK);
    CHECK(cdp_run_verify(p->run, &st) == CDP_OK);
    unlink(path);
    n_parts++;
}

static void check_part(const part *p, uint64_t last_seq)
{
    cdp_interval iv[4];
    cdp_status st;
    cdp_place tree_place = {(uint32_t)rnd(10), (uint32_t)rnd(300)}, run_place = tree_place;
    for (int i = 0; i < 40; i++) {
        uint32_t n = random_intervals(iv, 4, last_seq + 2);
        uint64_t x = base + rnd(sectors);
        cdp_hit a, b;
        cdp_tree_find(p->tree, x, iv, n, &a);
        check_hit(&a, x, iv, n, NULL, 0, p->first_seq, p->last_seq);
        CHECK(cdp_run_find(p->run, x, iv, n, &b, &st) == CDP_OK);
        check_hit(&b, x, iv, n, NULL, 0, p->first_seq, p->last_seq);
        cdp_tree_find_near(p->tree, x, iv, n, &b, &tree_place);
        CHECK(a.found == b.found && a.seq == b.seq && a.loc == b.loc && a.until == b.until);
        CHECK(cdp_run_find_near(p->run, x, iv, n, &b, &run_place, &st) == CDP_OK);
        check_hit(&b, x, iv, n, NULL, 0, p->first_seq, p->last_seq);
    }
}

/* No two neighbours of a merged run say the same. */
static void check_joined(const cdp_run *r)
{
    cdp_run_cursor a, b;
    cdp_status st;
    cdp_run_cursor_init(&b, r);
    CHECK(cdp_run_cursor_next(&b, &st) == CDP_OK);
    for (;;) {
        int same = 1;
        a = b;
        CHECK(cdp_run_cursor_next(&b, &st) == CDP_OK);
        if (b.start == UINT64_MAX)
            return;
        if (a.end != b.start || a.n_versions != b.n_versions)
            continue;
        for (uint64_t i = 0; i < a.n_versions; i++)
            same &= a.versions[i].seq == b.versions[i].seq
                 && cdp_loc_add(a.versions[i].loc, b.start - a.start) == b.versions[i].loc;
        CHECK(!same);
    }
}

static cdp_run *merge(uint32_t first, uint32_t n, const cdp_interval *dropped, uint32_t n_dropped)
{
    cdp_run *from[MAX_PARTS], *out;
    cdp_run_meta meta = {{0}, parts[first].first_seq, parts[first + n - 1].last_seq, first + 1, first + n};
    char path[4096];
    cdp_status st;
    memcpy(meta.uuid, uuid, 16);
    for (uint32_t i = 0; i < n; i++)
        from[i] = parts[first + i].run;
    CHECK(cdp_run_merge(&plain_os, name(path, "m.run"), &meta, from, n, dropped, n_dropped, &st) == CDP_OK);
    CHECK(cdp_run_open(&plain_os, path, uuid, &out, &st) == CDP_OK);
    CHECK(cdp_run_verify(out, &st) == CDP_OK);
    unlink(path);
    check_joined(out);
    return out;
}

static void check_merge(uint64_t last_seq)
{
    cdp_interval dropped[3], iv[4];
    uint32_t first = (uint32_t)rnd(n_parts), n = 1 + (uint32_t)rnd(n_parts - first);
    uint32_t n_dropped = rnd(2) ? random_intervals(dropped, 3, last_seq) : 0;
    cdp_run *r = merge(first, n, dropped, n_dropped);
    cdp_status st;
    cdp_hit hit;
    for (int i = 0; i < 60; i++) {
        uint32_t n_iv = random_intervals(iv, 4, last_seq + 2);
        uint64_t x = base + rnd(sectors);
        CHECK(cdp_run_find(r, x, iv, n_iv, &hit, &st) == CDP_OK);
        check_hit(&hit, x, iv, n_iv, dropped, n_dropped, parts[first].first_seq, parts[first + n - 1].last_seq);
    }
    cdp_run_close(r);
}

static void check_lookup(uint64_t last_seq)
{
    cdp_view_piece pieces[4];
    cdp_interval iv[16];
    cdp_view view = {1 + (uint32_t)rnd(4), 0, pieces, iv};
    cdp_tree *trees[MAX_PARTS];
    cdp_run *runs[MAX_PARTS], *merged = NULL;
    uint32_t n_trees = 0, n_runs = 0, as_runs = (uint32_t)rnd(n_parts + 1), merge_first = (uint32_t)rnd(as_runs + 1);
    uint64_t end = base + sectors, a, b, at, cap = 1 + rnd(8), n_two;
    cdp_piece one[16], *trees_only = malloc(4096 * sizeof *trees_only), *two = malloc(4096 * sizeof *two);
    cdp_status st;
    for (uint32_t i = 0; i < view.n_pieces; i++) {
        pieces[i].start = i ? pieces[i - 1].end : 0;
        pieces[i].end = i + 1 == view.n_pieces ? end : (i ? pieces[i - 1].end : base) + 1 + rnd(sectors / 4);
        pieces[i].first = view.n_intervals;
        pieces[i].count = random_intervals(iv + view.n_intervals, 4, last_seq + 2);
        view.n_intervals += pieces[i].count;
    }
    for (uint32_t i = n_parts; i-- > as_runs;)
        trees[n_trees++] = parts[i].tree;
    for (uint32_t i = as_runs; i-- > merge_first;)
        runs[n_runs++] = parts[i].run;
    if (merge_first > 0)
        runs[n_runs++] = merged = merge(0, merge_first, NULL, 0);
    a = base + rnd(sectors);
    b = a + 1 + rnd(end - a);
    at = a;
    while (at < b) { /* through a small window, in few steps, as a caller with little room or time does */
        uint64_t reached, steps = 1 + rnd(2 * cap), *limit = rnd(2) ? &steps : NULL;
        int64_t n = cdp_lookup(&view, trees, n_trees, runs, n_runs, at, b, one, cap, limit, &reached, &st);
        CHECK(n > 0 && n <= (int64_t)cap && one[0].start == at && one[n - 1].end == reached && reached <= b);
        CHECK(reached == b || n == (int64_t)cap || (limit && steps == 0));
        for (int64_t i = 0; i < n; i++) {
            CHECK(i == 0 || one[i].start == one[i - 1].end);
            CHECK(i == 0 || cdp_loc_add(one[i - 1].loc, one[i].start - one[i - 1].start) != one[i].loc);
            for (uint64_t x = one[i].start; x < one[i].end; x++) {
                uint32_t p = 0;
                const op *o;
                while (x >= pieces[p].end)
                    p++;
                o = model(x, iv + pieces[p].first, pieces[p].count, NULL, 0, 0, UINT64_MAX);
                CHECK(cdp_loc_add(one[i].loc, x - one[i].start)
                      == (o ? cdp_loc_add(o->loc, x - o->start) : CDP_LOC_BASE));
            }
        }
        at = reached;
    }
    { /* trees first, runs after: the same pieces */
        uint64_t reached;
        int64_t n = cdp_lookup(&view, trees, n_trees, NULL, 0, a, b, trees_only, 4096, NULL, &reached, &st), m, k;
        CHECK(n > 0 && reached == b);
        m = cdp_lookup(&view, trees, n_trees, runs, n_runs, a, b, two, 4096, NULL, &n_two, &st);
        CHECK(m > 0 && n_two == b);
        k = cdp_lookup_runs(&view, runs, n_runs, 0, trees_only, (uint64_t)n, one, cap, NULL, &reached, &st);
        CHECK(k > 0 && memcmp(one, two, ((size_t)k - 1) * sizeof *one) == 0 && one[k - 1].end == reached);
        CHECK(reached == b ? k == m && memcmp(one, two, (size_t)k * sizeof *one) == 0 : k == (int64_t)cap);
    }
    cdp_run_close(merged);
    free(trees_only);
    free(two);
}

/* --- damage ---------------------------------------------------------------------------------------------------- */

static uint8_t *slurp(const char *path, uint64_t *n)
{
    int fd = open(path, O_RDONLY);
    struct stat s;
    uint8_t *p;
    CHECK(fd >= 0 && fstat(fd, &s) == 0 && (p = malloc((size_t)s.st_size)) != NULL);
    CHECK(read(fd, p, (size_t)s.st_size) == s.st_size);
    close(fd);
    *n = (uint64_t)s.st_size;
    return p;
}

static void spew(const char *path, const uint8_t *p, uint64_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    close(fd);
}

/* Makes every checksum right again, as far as the (damaged) header says where they are. */
static void mend_checksums(uint8_t *p, uint64_t n)
{
    struct cdp_run_header h;
    memcpy(&h, p, sizeof h);
    if (h.crcs_offset >= CDP_BLOCK && h.crcs_offset % 4 == 0 && h.crcs_offset <= n) {
        uint64_t spans = 0;
        for (uint64_t at = CDP_BLOCK; at < h.crcs_offset; at += CDP_RUN_CRC_SPAN) {
            uint64_t part = h.crcs_offset - at < CDP_RUN_CRC_SPAN ? h.crcs_offset - at : CDP_RUN_CRC_SPAN;
            if (h.crcs_offset + spans * 4 + 4 > n)
                break;
            uint32_t crc = cdp_crc32c(0, p + at, part);
            memcpy(p + h.crcs_offset + spans++ * 4, &crc, 4);
        }
        h.crcs_crc = cdp_crc32c(0, p + h.crcs_offset, spans * 4);
    }
    h.crc = 0;
    memcpy(p, &h, sizeof h);
    h.crc = cdp_crc32c(0, p, CDP_BLOCK);
    memcpy(p, &h, sizeof h);
}

static void damage(uint8_t *p, uint64_t n)
{
    struct cdp_run_header h;
    memcpy(&h, p, sizeof h);
    for (int k = 1 + (int)rnd(3); k > 0; k--) {
        static const uint64_t values[] = {0, 1, 2, 127, 128, 129, 4096, 65536, 1ull << 31, 1ull << 32, 1ull << 47,
                                          1ull << 63, UINT64_MAX, UINT64_MAX - 15};
        uint64_t at = CDP_BLOCK + rnd(n - CDP_BLOCK + 1), table = h.crcs_offset - h.fences_offset;
        switch (rnd(4)) {
        case 0:
            at = rnd(sizeof h);
            break;
        case 1: /* the fences, and the extents of the last block before them */
        case 2:
            if (h.crcs_offset <= n && h.fences_offset < h.crcs_offset && h.fences_offset > CDP_BLOCK + 512)
                at = h.fences_offset - 512 + rnd(table + 512);
        }
        uint64_t v = rnd(3) ? values[rnd(sizeof values / sizeof *values)] : rnd(1u << 20), bytes = rnd(2) ? 8 : 4;
        at = rnd(4) ? at / 4 * 4 : at;
        if (rnd(3) == 0 && at < n)
            p[at] ^= (uint8_t)(1u << rnd(8));
        else if (at + bytes <= n)
            memcpy(p + at, &v, bytes);
    }
}

static void use_damaged(const char *path, int mended, uint64_t last_seq)
{
    cdp_run_meta meta = {{0}, 1, UINT64_MAX, 1, 9};
    cdp_interval iv[4];
    cdp_run *r, *both[2];
    cdp_status st;
    char out[4096];
    if (cdp_run_open(&plain_os, path, mended ? NULL : uuid, &r, &st) != CDP_OK) {
        CHECK(st.code == CDP_CORRUPT && st.where != NULL);
        return;
    }
    CHECK(mended || cdp_run_verify(r, &st) == CDP_CORRUPT);
    cdp_run_verify(r, &st);
    cdp_run_close(r);
    CHECK(cdp_run_open(&plain_os, path, NULL, &r, &st) == CDP_OK); /* anew: verify may have found some spans right */
    for (int i = 0; i < 60; i++) {
        uint32_t n = random_intervals(iv, 4, last_seq + 2);
        uint64_t x = rnd(4) ? base + rnd(sectors) : rnd(1ull << 43);
        cdp_hit hit;
        if (cdp_run_find(r, x, iv, n, &hit, &st) != CDP_OK)
            CHECK(hit.found == 0 && hit.until == x + 1 && st.code == CDP_CORRUPT);
        else if (mended)
            CHECK(hit.until > x);
        else /* an answer that is given is right */
            check_hit(&hit, x, iv, n, NULL, 0, parts[0].first_seq, parts[0].last_seq);
    }
    if (mended) {
        cdp_view_piece piece = {0, 1ull << 48, 0, 1};
        cdp_interval all = {0, UINT64_MAX};
        cdp_view view = {1, 1, &piece, &all};
        cdp_piece pieces[64];
        uint64_t reached;
        cdp_lookup(&view, NULL, 0, &r, 1, base, base + sectors, pieces, 64, NULL, &reached, &st);
        memcpy(meta.uuid, cdp_run_header_of(r)->volume_uuid, 16);
        both[0] = r;
        if (cdp_run_merge(&plain_os, name(out, "d.run"), &meta, both, 1, NULL, 0, &st) == CDP_OK) {
            cdp_run *merged;
            CHECK(cdp_run_open(&plain_os, out, NULL, &merged, &st) == CDP_OK);
            cdp_run_verify(merged, &st);
            cdp_run_close(merged);
            unlink(out);
        } else {
            CHECK(access(out, F_OK) != 0);
        }
    }
    cdp_run_close(r);
}

static void check_damage(uint64_t last_seq)
{
    cdp_run_meta meta = {{0}, parts[0].first_seq, parts[0].last_seq, 1, 1};
    char path[4096];
    cdp_status st;
    uint64_t n;
    uint8_t *good, *bad;
    memcpy(meta.uuid, uuid, 16);
    CHECK(cdp_run_write_tree(&plain_os, name(path, "c.run"), &meta, parts[0].tree, &st) == CDP_OK);
    good = slurp(path, &n);
    bad = malloc(n);
    for (int i = 0; i < 24; i++) {
        int mend = i % 2;
        uint64_t m = rnd(12) == 0 ? rnd(n) : n; /* sometimes cut off */
        memcpy(bad, good, n);
        if (m == n)
            damage(bad, n);
        if (mend && m > CDP_BLOCK)
            mend_checksums(bad, m);
        if (m == n && memcmp(bad, good, n) == 0)
            continue;
        spew(path, bad, m);
        use_damaged(path, mend, last_seq);
    }
    unlink(path);
    free(good);
    free(bad);
}

/* --- failing calls --------------------------------------------------------------------------------------------- */

/* Whatever call fails, the old file stays, nothing else does, and without a failure the new one is there. */
static void check_failures(void)
{
    cdp_run_meta meta = {{0}, parts[0].first_seq, parts[n_parts - 1].last_seq, 1, n_parts};
    char path[4096], tmp[4096];
    cdp_run *from[MAX_PARTS], *r;
    cdp_status st;
    uint64_t n;
    uint8_t *now;
    memcpy(meta.uuid, uuid, 16);
    for (uint32_t i = 0; i < n_parts; i++)
        from[i] = parts[i].run;
    name(path, "f.run");
    name(tmp, "f.run.tmp");
    spew(path, (const uint8_t *)"old", 3);
    for (int64_t calls = 0;; calls++) {
        int rc;
        CHECK(calls < 1000);
        spew(tmp, (const uint8_t *)"left behind", 11);
        plain_broken = (int)rnd(2);
        plain_fuse = calls;
        plain_failures = 0;
        rc = cdp_run_merge(&plain_os, path, &meta, from, n_parts, NULL, 0, &st);
        plain_fuse = -1;
        CHECK(access(tmp, F_OK) != 0);
        if (rc == CDP_OK) {
            CHECK(plain_failures == 0);
            break;
        }
        CHECK(rc == st.code && st.sys_errno != 0);
        now = slurp(path, &n);
        CHECK(n == 3 && memcmp(now, "old", 3) == 0);
        free(now);
    }
    for (int64_t calls = 0;; calls++) {
        int rc;
        CHECK(calls < 100);
        plain_fuse = calls;
        plain_failures = 0;
        rc = cdp_run_open(&plain_os, path, uuid, &r, &st);
        plain_fuse = -1;
        if (rc == CDP_OK && plain_failures == 0)
            break;
        if (rc == CDP_OK) { /* a close that failed after reading does no harm */
            cdp_run_close(r);
            continue;
        }
        CHECK(r == NULL && rc == CDP_UNAVAILABLE);
    }
    cdp_run_close(r);
    unlink(path);
}

static void one_round(uint64_t seed)
{
    static const uint64_t bases[] = {0, 0, (1ull << 31) - 20, (1ull << 32) - 20, (1ull << 40) - 20,
                                     CDP_MAX_SECTORS - 2000};
    uint64_t seq = 0;
    round_seed = seed;
    state = seed * 0x9e3779b97f4a7c15ull | 1;
    rnd(2);
    n_ops = n_parts = 0;
    base = bases[rnd(6)];
    sectors = rnd(2) ? 24 + rnd(40) : 200 + rnd(1800);
    for (uint32_t n = 1 + (uint32_t)rnd(MAX_PARTS); n_parts < n;)
        make_part((uint32_t)rnd(rnd(3) ? 30 : 300), &seq);
    for (uint32_t i = 0; i < n_parts; i++)
        check_part(&parts[i], seq);
    for (int i = 0; i < 3; i++) {
        check_merge(seq);
        check_lookup(seq);
    }
    if (seed % 4 == 0)
        check_damage(seq);
    if (seed % 8 == 0)
        check_failures();
    for (uint32_t i = 0; i < n_parts; i++) {
        cdp_tree_free(parts[i].tree);
        cdp_run_close(parts[i].run);
    }
}

int main(int argc, char **argv)
{
    uint64_t seed, rounds;
    if (argc != 4)
        return 2;
    dir = argv[1];
    seed = strtoull(argv[2], NULL, 0);
    rounds = strtoull(argv[3], NULL, 0);
    for (uint64_t i = 0; i < rounds; i++)
        one_round(seed + i);
    return 0;
}

/* Measures the index: ns per insert and find in a tree, bytes per record and ns per look-up in runs built by merging.
 *
 *     cc -O3 -std=c11 -D_GNU_SOURCE -Isrc/cdpcore tests/c/index_bench.c src/cdpcore/{base/crc32c,index/run,...}.c
 *     index_bench DIRECTORY [RECORDS [RECORDS-PER-RUN [BLOCKS]]]
 *
 * The history: random 4 KiB writes over 1 M blocks (4 GiB); a run per million records, every eight merged into one. The
 * look-ups' lines do not depend on the page cache: the runs have just been written. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/crc32c.h"
#include "index/index.h"
#include "plain_os.h"

static uint64_t blocks = 1u << 20, per_run = 1000000;
static uint64_t state = 88172645463325252ull;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 2685821657736338717ull >> 16;
}

/* Of this thread's processor time, so that neighbours disturb less: waiting for the disk is not in it. */
static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void must(int rc, const cdp_status *st)
{
    if (rc == CDP_OK)
        return;
    fprintf(stderr, "%s: code %d errno %d at %llu\n", st->where, st->code, st->sys_errno,
            (unsigned long long)st->offset);
    exit(1);
}

static void bench_tree(uint32_t n, const char *what, int sequential)
{
    const uint32_t finds = 16 * n < 1000000 ? 16 * n : 1000000;
    const cdp_interval now = {0, UINT64_MAX}, half = {0, n / 2};
    double insert = 1e18, find = 1e18, as_of = 1e18;
    uint64_t sum = 0, bytes = 0;
    for (int round = 0; round < 3; round++) {
        cdp_tree *t = cdp_tree_new(n);
        cdp_hit hit;
        double t0 = now_ns();
        for (uint32_t i = 0; i < n; i++) {
            uint64_t s = sequential ? (uint64_t)i * 8 : rnd() % blocks * 8;
            cdp_tree_insert(t, i + 1, s, s + 8, cdp_loc(1, (uint64_t)i * 4096));
        }
        double t1 = now_ns();
        for (uint32_t i = 0; i < finds; i++) {
            cdp_tree_find(t, rnd() % blocks * 8, &now, 1, &hit);
            sum += hit.loc;
        }
        double t2 = now_ns();
        for (uint32_t i = 0; i < finds; i++) {
            cdp_tree_find(t, rnd() % blocks * 8, &half, 1, &hit);
            sum += hit.loc;
        }
        double t3 = now_ns();
        insert = (t1 - t0) / n < insert ? (t1 - t0) / n : insert;
        find = (t2 - t1) / finds < find ? (t2 - t1) / finds : find;
        as_of = (t3 - t2) / finds < as_of ? (t3 - t2) / finds : as_of;
        bytes = cdp_tree_bytes(t);
        cdp_tree_free(t);
    }
    printf("tree, %u %s: insert %.0f ns, find now %.0f ns, as of half-way %.0f ns, %.1f bytes a record (%llu)\n", n,
           what, insert, find, as_of, (double)bytes / n, (unsigned long long)(sum & 1));
}

static void bench_lookup(cdp_run **newest_first, uint32_t n_runs, uint64_t records, uint64_t sectors_each, int now)
{
    const uint64_t n = (records < 1000000 ? records : 1000000) / (sectors_each / 8);
    cdp_piece pieces[512];
    cdp_status st;
    uint64_t reached, sum = 0, n_pieces = 0;
    double t0 = now_ns();
    for (uint64_t i = 0; i < n; i++) {
        cdp_interval iv = {0, now ? UINT64_MAX : 1 + rnd() % records};
        cdp_view_piece piece = {0, blocks * 8, 0, 1};
        cdp_view view = {1, 1, &piece, &iv};
        uint64_t s = rnd() % (blocks - sectors_each / 8) * 8;
        int64_t got = cdp_lookup(&view, NULL, 0, newest_first, n_runs, s, s + sectors_each, pieces, 512, NULL, &reached,
                                 &st);
        if (got < 0)
            must((int)-got, &st);
        n_pieces += (uint64_t)got;
        sum += pieces[0].loc;
    }
    double t = now_ns() - t0;
    printf("  look-up of %3llu KiB %s: %.0f ns, %.1f pieces, %.0f ns a piece (%llu)\n",
           (unsigned long long)sectors_each / 2, now ? "now  " : "as of", t / (double)n, (double)n_pieces / (double)n,
           t / (double)n_pieces, (unsigned long long)(sum & 1));
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : ".";
    const uint64_t records = argc > 2 ? strtoull(argv[2], NULL, 0) : 10000000;
    cdp_run *runs[CDP_MAX_RUNS], *newest_first[CDP_MAX_RUNS];
    uint32_t level[CDP_MAX_RUNS], n_runs = 0;
    char path[4096];
    cdp_status st;
    double t_write = 0, t_merge = 0;
    uint64_t merged = 0, bytes = 0;
    per_run = argc > 3 ? strtoull(argv[3], NULL, 0) : per_run;
    blocks = argc > 4 ? strtoull(argv[4], NULL, 0) : blocks;
    if (records == 0 || per_run == 0 || per_run > 1u << 28 || blocks < 1024)
        return 2;
    bench_tree(records < 65536 ? (uint32_t)records : 65536, "random", 0);
    bench_tree(records < 65536 ? (uint32_t)records : 65536, "sequential", 1);
    bench_tree(records < 1000000 ? (uint32_t)records : 1000000, "random", 0);
    for (uint64_t done = 0; done < records;) {
        const uint32_t n = records - done < per_run ? (uint32_t)(records - done) : per_run;
        cdp_run_meta meta = {{0}, done + 1, done + n, 1, 1};
        cdp_tree *t = cdp_tree_new(n);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t s = rnd() % blocks * 8;
            cdp_tree_insert(t, done + i + 1, s, s + 8, cdp_loc(1 + (uint32_t)(done / per_run), (uint64_t)i * 4096));
        }
        done += n;
        snprintf(path, sizeof path, "%s/%llu.run", dir, (unsigned long long)done);
        double t0 = now_ns();
        must(cdp_run_write_tree(&plain_os, path, &meta, t, &st), &st);
        t_write += now_ns() - t0;
        must(cdp_run_open(&plain_os, path, NULL, &runs[n_runs], &st), &st);
        unlink(path);
        level[n_runs++] = 0;
        cdp_tree_free(t);
        while (n_runs >= 8 && level[n_runs - 1] == level[n_runs - 8]) {
            cdp_run **from = &runs[n_runs - 8];
            cdp_run_meta m = {{0}, cdp_run_header_of(from[0])->first_seq, done, 1, 1};
            snprintf(path, sizeof path, "%s/m%llu.run", dir, (unsigned long long)done);
            t0 = now_ns();
            must(cdp_run_merge(&plain_os, path, &m, from, 8, NULL, 0, &st), &st);
            t_merge += now_ns() - t0;
            for (int i = 0; i < 8; i++) {
                merged += cdp_run_header_of(from[i])->n_versions;
                cdp_run_close(from[i]);
            }
            n_runs -= 7;
            level[n_runs - 1]++;
            must(cdp_run_open(&plain_os, path, NULL, &runs[n_runs - 1], &st), &st);
            unlink(path);
        }
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        double t0 = now_ns();
        must(cdp_run_verify(runs[i], &st), &st);
        printf("run of %llu versions: verify %.0f ms\n", (unsigned long long)cdp_run_header_of(runs[i])->n_versions,
               (now_ns() - t0) / 1e6);
        bytes += cdp_run_header_of(runs[i])->file_bytes;
        newest_first[n_runs - 1 - i] = runs[i];
    }
    printf("%llu records in %u runs: %.1f bytes a record; write %.0f ns, merge %.0f ns a record\n",
           (unsigned long long)records, n_runs, (double)bytes / (double)records, t_write / (double)records,
           merged ? t_merge / (double)merged : 0);
    for (int now = 0; now < 2; now++)
        for (uint64_t s = 8; s <= 512; s *= 8)
            bench_lookup(newest_first, n_runs, records, s, now);
    for (uint32_t i = 0; i < n_runs; i++)
        cdp_run_close(runs[i]);
    return 0;
}

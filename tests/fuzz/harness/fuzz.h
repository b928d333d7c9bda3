/* What the harnesses share: checks that end the program, files in memory, and checksums that are made right.
 *
 * A harness is one function of some bytes, LLVMFuzzerTestOneInput; libFuzzer calls it, or replay.c, once a file of the
 * corpus. It must not depend on anything but these bytes.
 *
 * Most bytes of a file of the log are zeros and padding, and a change of any byte fails a checksum. So a file is packed
 * here: each of its blocks of 4 KiB is a length (16 bits, little-endian) and so many bytes, the rest being zeros; and
 * the first byte of an input says whether the harness writes the right checksums into the file before it is read
 * (FUZZ_MEND). Without that the checks themselves are fuzzed. */
#ifndef FUZZ_H
#define FUZZ_H
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/crc32c.h"
#include "base/format.h"
#include "system/os.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FUZZ_CHECK(c) \
    do { \
        if (!(c)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #c); \
            abort(); \
        } \
    } while (0)

#define FUZZ_MEND 1u
#define FUZZ_MAX_BLOCKS 64u
#define FUZZ_SEGMENT 7u
#define FUZZ_SALT 0x1122334455667788ull

typedef struct fuzz_file {
    uint8_t *bytes; /* of exactly n bytes, so that the sanitizer guards its end */
    uint64_t n;
} fuzz_file;

static inline uint32_t fuzz_u16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

/* The file that is packed in data[0..n). `tail`: bytes of its last block that are not there. */
static inline fuzz_file fuzz_unpack(const uint8_t *data, size_t n, uint32_t tail)
{
    uint32_t blocks = 0;
    for (size_t at = 0; at + 2 <= n && blocks < FUZZ_MAX_BLOCKS; blocks++) {
        uint32_t some = fuzz_u16(data + at) % (CDP_BLOCK + 1);
        at += 2 + (some < n - at - 2 ? some : n - at - 2);
    }
    fuzz_file f = {.n = (uint64_t)blocks * CDP_BLOCK};
    f.n -= f.n ? tail % CDP_BLOCK : 0;
    uint8_t *whole = calloc(blocks + 1, CDP_BLOCK);
    f.bytes = malloc(f.n ? f.n : 1);
    FUZZ_CHECK(whole && f.bytes);
    size_t at = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        size_t some = fuzz_u16(data + at) % (CDP_BLOCK + 1);
        some = some < n - at - 2 ? some : n - at - 2;
        memcpy(whole + (uint64_t)i * CDP_BLOCK, data + at + 2, some);
        at += 2 + some;
    }
    memcpy(f.bytes, whole, f.n);
    free(whole);
    return f;
}

/* The right CRC-32C of block `at` with four bytes at `crc_at` zero, put there. */
static inline void fuzz_mend_block(fuzz_file *f, uint64_t at, uint64_t crc_at)
{
    if (at + CDP_BLOCK > f->n)
        return;
    memset(f->bytes + at + crc_at, 0, 4);
    uint32_t crc = cdp_crc32c(0, f->bytes + at, CDP_BLOCK);
    memcpy(f->bytes + at + crc_at, &crc, 4);
}

/* --- an OS table of one file in memory; handle 3 ------------------------------------------------------------------ */

static inline int fuzz_open(void *ctx, const char *path, uint32_t flags)
{
    (void)ctx, (void)flags;
    return path ? 3 : -ENOENT;
}

static inline int fuzz_close(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    return 0;
}

static inline int64_t fuzz_pread(void *ctx, int fd, void *buf, uint64_t n, uint64_t off)
{
    const fuzz_file *f = ctx;
    (void)fd;
    if (off >= f->n)
        return 0;
    n = n < f->n - off ? n : f->n - off;
    memcpy(buf, f->bytes + off, n);
    return (int64_t)n;
}

static inline int64_t fuzz_size(void *ctx, int fd)
{
    (void)fd;
    return (int64_t)((const fuzz_file *)ctx)->n;
}

static inline int fuzz_next_data(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *end)
{
    const fuzz_file *f = ctx;
    (void)fd;
    *start = off;
    *end = f->n;
    return off < f->n;
}

static inline int fuzz_map(void *ctx, int fd, uint64_t n, void **addr)
{
    const fuzz_file *f = ctx;
    (void)fd;
    if (n != f->n)
        return -EIO;
    *addr = f->bytes;
    return 0;
}

static inline int fuzz_unmap(void *ctx, void *addr, uint64_t n)
{
    (void)ctx, (void)addr, (void)n;
    return 0;
}

static inline cdp_os fuzz_os(fuzz_file *f)
{
    return (cdp_os){.ctx = f, .open = fuzz_open, .close = fuzz_close, .pread = fuzz_pread, .pread_now = fuzz_pread,
                    .size = fuzz_size, .next_data = fuzz_next_data, .map = fuzz_map, .unmap = fuzz_unmap};
}

/* --- frames ------------------------------------------------------------------------------------------------------- */

/* From byte 4096 on, frame by frame as long as the lengths in their headers lie in the file: magic, salt, place, number
 * and checksums of header and data. Where it ends. */
static inline uint64_t fuzz_mend_frames(fuzz_file *f, uint64_t salt)
{
    uint64_t off = CDP_BLOCK;
    for (uint32_t number = 0; off + CDP_BLOCK <= f->n; number++) {
        struct cdp_frame_header h;
        memcpy(&h, f->bytes + off, sizeof h);
        if (h.n_desc == 0 || h.data_bytes > f->n || h.tail_bytes > 16 * CDP_BLOCK ||
            off + CDP_BLOCK + h.data_bytes + h.tail_bytes > f->n)
            break;
        h.magic = CDP_FRAME_MAGIC;
        h.salt = salt;
        h.frame = number;
        h.offset_blocks = (uint32_t)(off / CDP_BLOCK);
        h.crc = 0;
        for (uint32_t i = 0; i < h.n_desc; i++) {
            uint64_t at = i < CDP_FRAME_HEAD_DESCS
                              ? off + sizeof h + i * sizeof(struct cdp_record_desc)
                              : off + CDP_BLOCK + h.data_bytes + (i - CDP_FRAME_HEAD_DESCS) / CDP_TAIL_DESCS * CDP_BLOCK
                                    + (i - CDP_FRAME_HEAD_DESCS) % CDP_TAIL_DESCS * sizeof(struct cdp_record_desc);
            struct cdp_record_desc d;
            if (at + sizeof d > f->n)
                break;
            memcpy(&d, f->bytes + at, sizeof d);
            uint64_t data = (uint64_t)d.data_sector * CDP_SECTOR;
            if (!d.data_bytes || data + d.data_bytes > f->n)
                continue;
            d.crc = cdp_crc32c(0, f->bytes + data, d.data_bytes);
            memcpy(f->bytes + at, &d, sizeof d);
        }
        memcpy(f->bytes + off, &h, sizeof h);
        h.crc = cdp_crc32c(cdp_crc32c(0, f->bytes + off, CDP_BLOCK), f->bytes + off + CDP_BLOCK + h.data_bytes,
                           h.tail_bytes);
        memcpy(f->bytes + off, &h, sizeof h);
        off += CDP_BLOCK + h.data_bytes + h.tail_bytes;
    }
    return off;
}

#endif

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/crc32c.h"
#include "log/frame.h"

static uint32_t round_block(uint32_t n) { return (n + CDP_BLOCK - 1) / CDP_BLOCK * CDP_BLOCK; }
static uint32_t tail_bytes_for(uint32_t n_desc)
{
    if (n_desc <= CDP_FRAME_HEAD_DESCS)
        return 0;
    return (n_desc - (uint32_t)CDP_FRAME_HEAD_DESCS + (uint32_t)CDP_TAIL_DESCS - 1) / (uint32_t)CDP_TAIL_DESCS *
           CDP_BLOCK;
}

void cdp_frame_start(cdp_frame *f, uint8_t *slot, uint32_t slot_bytes, uint32_t segment, uint32_t frame,
                     uint64_t file_off, uint64_t salt, uint64_t first_seq, uint64_t flush_seq)
{
    f->slot = slot;
    f->slot_bytes = slot_bytes;
    f->used_bytes = CDP_BLOCK;
    f->n_desc = 0;
    f->frame = frame;
    f->segment = segment;
    f->total_bytes = 0;
    f->file_off = file_off;
    f->salt = salt;
    f->first_seq = first_seq;
    f->last_seq = first_seq - 1;
    f->first_ts_ns = 0;
    f->flush_seq = flush_seq;
}

int cdp_frame_fits(const cdp_frame *f, uint32_t bytes)
{
    return f->n_desc < CDP_FRAME_MAX_DESCS && bytes <= f->slot_bytes - CDP_FRAME_TAIL_BYTES - f->used_bytes;
}

uint64_t cdp_frame_size_with(const cdp_frame *f, uint32_t bytes)
{
    return (uint64_t)round_block(f->used_bytes + bytes) + tail_bytes_for(f->n_desc + 1);
}

/* While the frame grows, descriptor i >= 100 waits in the slot's last 64 KiB, already in its final block layout. */
static struct cdp_record_desc *desc_at(uint8_t *head, uint8_t *tail, uint32_t i)
{
    if (i < CDP_FRAME_HEAD_DESCS)
        return (struct cdp_record_desc *)(head + sizeof(struct cdp_frame_header)) + i;
    i -= (uint32_t)CDP_FRAME_HEAD_DESCS;
    return (struct cdp_record_desc *)(tail + i / CDP_TAIL_DESCS * CDP_BLOCK) + i % CDP_TAIL_DESCS;
}

uint64_t cdp_frame_add(cdp_frame *f, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors, uint16_t kind,
                       uint16_t flags, const void *data, uint32_t bytes, uint32_t crc)
{
    uint64_t loc = 0;
    struct cdp_record_desc *d = desc_at(f->slot, f->slot + f->slot_bytes - CDP_FRAME_TAIL_BYTES, f->n_desc);
    d->ts_ns = ts_ns;
    d->start = start;
    d->sectors = sectors;
    d->kind = kind;
    d->flags = flags;
    d->data_bytes = bytes;
    d->crc = crc;
    d->data_sector = 0;
    if (bytes) {
        memcpy(f->slot + f->used_bytes, data, bytes);
        loc = cdp_loc(f->segment, f->file_off + f->used_bytes);
        d->data_sector = (uint32_t)loc;
        f->used_bytes += bytes;
    }
    if (f->n_desc == 0)
        f->first_ts_ns = ts_ns;
    f->last_seq = seq;
    if (kind == CDP_KIND_FLUSH || flags & CDP_REC_FUA)
        f->flush_seq = seq;
    __atomic_store_n(&f->n_desc, f->n_desc + 1, __ATOMIC_RELEASE); /* cdp_frame_descs may run meanwhile */
    return loc;
}

uint32_t cdp_frame_descs(const cdp_frame *f, struct cdp_record_desc *out, uint32_t cap)
{
    uint32_t n = __atomic_load_n(&f->n_desc, __ATOMIC_ACQUIRE);
    uint8_t *tail = f->total_bytes ? f->slot + f->total_bytes - tail_bytes_for(n)
                                   : f->slot + f->slot_bytes - CDP_FRAME_TAIL_BYTES;
    for (uint32_t i = 0; i < n && i < cap; i++)
        out[i] = *desc_at(f->slot, tail, i);
    return n;
}

void cdp_frame_finish(cdp_frame *f, uint64_t durable_seq)
{
    uint32_t data_end = round_block(f->used_bytes), tail = tail_bytes_for(f->n_desc);
    uint8_t *waiting = f->slot + f->slot_bytes - CDP_FRAME_TAIL_BYTES;
    memset(f->slot + f->used_bytes, 0, data_end - f->used_bytes);
    uint32_t in_head = f->n_desc < CDP_FRAME_HEAD_DESCS ? f->n_desc : (uint32_t)CDP_FRAME_HEAD_DESCS;
    uint32_t head_used = (uint32_t)(sizeof(struct cdp_frame_header) + in_head * sizeof(struct cdp_record_desc));
    memset(f->slot + head_used, 0, CDP_BLOCK - head_used);
    if (tail) {
        const uint32_t full = (uint32_t)(CDP_TAIL_DESCS * sizeof(struct cdp_record_desc));
        uint32_t last = (f->n_desc - (uint32_t)CDP_FRAME_HEAD_DESCS - 1) % (uint32_t)CDP_TAIL_DESCS + 1;
        for (uint32_t b = 0; b < tail; b += CDP_BLOCK) /* the unused end of each block is zero on disk */
            memset(waiting + b + full, 0, CDP_BLOCK - full);
        uint32_t used = last * (uint32_t)sizeof(struct cdp_record_desc);
        memset(waiting + tail - CDP_BLOCK + used, 0, CDP_BLOCK - used);
        memmove(f->slot + data_end, waiting, tail);
    }
    struct cdp_frame_header h = {
        .magic = CDP_FRAME_MAGIC, .salt = f->salt, .first_seq = f->first_seq, .durable_seq = durable_seq,
        .flush_seq = f->flush_seq, .frame = f->frame, .n_desc = f->n_desc, .data_bytes = data_end - CDP_BLOCK,
        .tail_bytes = tail, .offset_blocks = (uint32_t)(f->file_off / CDP_BLOCK), .crc = 0,
    };
    memcpy(f->slot, &h, sizeof h);
    h.crc = cdp_crc32c(cdp_crc32c(0, f->slot, CDP_BLOCK), f->slot + data_end, tail);
    memcpy(f->slot, &h, sizeof h);
    f->total_bytes = data_end + tail;
}

void cdp_frame_sums(const cdp_frame *f, uint32_t *sums)
{
    for (uint32_t block = 0; block < f->total_bytes / CDP_BLOCK; block++)
        if (!sums[block])
            sums[block] = cdp_crc32c(0, f->slot + (uint64_t)block * CDP_BLOCK, CDP_BLOCK);
}

int cdp_frame_reader_init(cdp_frame_reader *r, const cdp_os *os, int fd, uint32_t segment, uint64_t salt, uint64_t end,
                          uint64_t expect_seq)
{
    memset(r, 0, sizeof *r);
    r->os = os;
    r->fd = fd;
    r->segment = segment;
    r->salt = salt;
    r->end = end;
    r->off = CDP_BLOCK;
    r->expect_seq = expect_seq;
    r->meta = malloc(CDP_BLOCK + CDP_FRAME_TAIL_BYTES);
    return r->meta ? 0 : -1;
}

void cdp_frame_reader_free(cdp_frame_reader *r)
{
    free(r->meta);
    free(r->data);
    r->meta = r->data = 0;
}

const struct cdp_record_desc *cdp_frame_reader_desc(const cdp_frame_reader *r, uint32_t i)
{
    return desc_at(r->meta, r->meta + CDP_BLOCK, i);
}

/* The header at `off`, checked against everything but its place in the sequence. 1 valid, 0 not, negative I/O error. */
static int load_header(cdp_frame_reader *r, uint64_t off, cdp_status *st)
{
    struct cdp_frame_header *h = &r->head;
    if (off + CDP_BLOCK > r->end)
        return 0;
    int64_t got = r->os->pread(r->os->ctx, r->fd, r->meta, CDP_BLOCK, off);
    if (got < 0)
        return -cdp_fail_os(st, got, off, "reading a frame header");
    if (got != CDP_BLOCK)
        return 0;
    memcpy(h, r->meta, sizeof *h);
    if (h->magic != CDP_FRAME_MAGIC || h->salt != r->salt || (uint64_t)h->offset_blocks * CDP_BLOCK != off)
        return 0;
    if (h->n_desc == 0 || h->n_desc > CDP_FRAME_MAX_DESCS || h->tail_bytes != tail_bytes_for(h->n_desc) ||
        h->data_bytes % CDP_BLOCK || h->data_bytes > CDP_FRAME_MAX_BYTES || h->first_seq == 0 ||
        off + CDP_BLOCK + h->data_bytes + h->tail_bytes > r->end)
        return 0;
    if (h->tail_bytes) {
        uint64_t at = off + CDP_BLOCK + h->data_bytes;
        got = r->os->pread(r->os->ctx, r->fd, r->meta + CDP_BLOCK, h->tail_bytes, at);
        if (got < 0)
            return -cdp_fail_os(st, got, at, "reading a frame's descriptors");
        if (got != h->tail_bytes)
            return 0;
    }
    memset(r->meta + offsetof(struct cdp_frame_header, crc), 0, sizeof h->crc);
    uint32_t crc = cdp_crc32c(cdp_crc32c(0, r->meta, CDP_BLOCK), r->meta + CDP_BLOCK, h->tail_bytes);
    if (crc != h->crc)
        return 0;
    memcpy(r->meta, h, sizeof *h);
    /* A valid checksum over data that breaks a rule is a writer's bug or an attack: not a frame either. */
    for (uint32_t i = 0; i < h->n_desc; i++) {
        const struct cdp_record_desc *d = cdp_frame_reader_desc(r, i);
        uint64_t first = off + CDP_BLOCK, at = (uint64_t)d->data_sector * CDP_SECTOR;
        if (d->kind < CDP_KIND_WRITE || d->kind > CDP_KIND_FOREIGN || d->sectors > CDP_MAX_SECTORS)
            return 0;
        if (cdp_kind_changes(d->kind) && (d->sectors == 0 || d->start > CDP_MAX_SECTORS - d->sectors))
            return 0;
        if (d->flags & CDP_REC_BEFORE ? d->data_bytes && d->data_bytes != d->sectors * CDP_SECTOR
                                      : d->kind == CDP_KIND_WRITE && d->data_bytes != d->sectors * CDP_SECTOR)
            return 0;
        if (d->kind == CDP_KIND_FOREIGN && (!(d->flags & CDP_REC_BEFORE) || d->data_bytes))
            return 0;
        if (d->data_bytes && (at < first || at + d->data_bytes > first + h->data_bytes))
            return 0;
    }
    return 1;
}

int cdp_frame_reader_load(cdp_frame_reader *r, cdp_status *st)
{
    uint64_t n = r->head.data_bytes, at = r->frame_off + CDP_BLOCK;
    if (r->data_off == at)
        return 1;
    r->data_off = 0;
    if (r->data_room < n) {
        free(r->data);
        r->data_room = n < 1u << 20 ? 1u << 20 : n;
        r->data = malloc(r->data_room);
        if (!r->data) {
            r->data_room = 0;
            return -cdp_fail_os(st, -ENOMEM, at, "reading a frame");
        }
    }
    int64_t got = n ? r->os->pread(r->os->ctx, r->fd, r->data, n, at) : 0;
    if (got < 0)
        return -cdp_fail_os(st, got, at, "reading a record's data");
    if ((uint64_t)got != n)
        return 0;
    r->data_off = at;
    return 1;
}

int cdp_frame_reader_data_ok(cdp_frame_reader *r, uint32_t i, cdp_status *st)
{
    const struct cdp_record_desc *d = cdp_frame_reader_desc(r, i);
    uint64_t at = (uint64_t)d->data_sector * CDP_SECTOR;
    if (!d->data_bytes)
        return 1;
    int rc = cdp_frame_reader_load(r, st);
    if (rc != 1)
        return rc;
    uint32_t crc = cdp_crc32c(0, r->data + (at - r->data_off), d->data_bytes);
    if (crc == d->crc)
        return 1;
    cdp_fail(st, CDP_CORRUPT, 0, at, "a record's data fails its checksum");
    st->expected = d->crc;
    st->actual = crc;
    return 0;
}

static void sum_blocks(uint32_t *sums, const uint8_t *p, uint64_t n)
{
    for (; n; n -= CDP_BLOCK, p += CDP_BLOCK)
        *sums++ = cdp_crc32c(0, p, CDP_BLOCK);
}

int cdp_frame_reader_next(cdp_frame_reader *r, int verify_data, cdp_status *st)
{
    int rc = load_header(r, r->off, st);
    if (rc != 1)
        return rc;
    if (r->head.frame != r->frame || (r->expect_seq && r->head.first_seq != r->expect_seq))
        return 0;
    r->frame_off = r->off;
    for (uint32_t i = 0; verify_data && i < r->head.n_desc; i++)
        if ((rc = cdp_frame_reader_data_ok(r, i, st)) != 1)
            return rc;
    if (verify_data && r->sums) {
        if ((rc = cdp_frame_reader_load(r, st)) != 1)
            return rc;
        uint64_t block = r->off / CDP_BLOCK, data = r->head.data_bytes / CDP_BLOCK;
        sum_blocks(r->sums + block, r->meta, CDP_BLOCK);
        sum_blocks(r->sums + block + 1, r->data, r->head.data_bytes);
        sum_blocks(r->sums + block + 1 + data, r->meta + CDP_BLOCK, r->head.tail_bytes);
    }
    r->off += CDP_BLOCK + r->head.data_bytes + r->head.tail_bytes;
    r->frame++;
    r->expect_seq = r->head.first_seq;
    for (uint32_t i = 0; i < r->head.n_desc; i++)
        r->expect_seq += !(cdp_frame_reader_desc(r, i)->flags & CDP_REC_MORE);
    return 1;
}

int cdp_frame_reader_later_durable(cdp_frame_reader *r, uint64_t *durable_seq, cdp_status *st)
{
    uint64_t off = r->off, start, stop;
    *durable_seq = 0;
    while (off < r->end) { /* unwritten parts of a preallocated file are skipped, not read */
        int rc = r->os->next_data(r->os->ctx, r->fd, off, &start, &stop);
        if (rc < 0)
            return cdp_fail_os(st, rc, off, "looking for data");
        if (rc == 0)
            break;
        for (off = (start > off ? start : off) / CDP_BLOCK * CDP_BLOCK; off < stop && off < r->end; off += CDP_BLOCK) {
            if ((rc = load_header(r, off, st)) < 0)
                return -rc;
            if (rc == 1 && r->head.durable_seq > *durable_seq)
                *durable_seq = r->head.durable_seq;
        }
    }
    return CDP_OK;
}

/* Frames: the group commits of a segment. Built in a slot, parsed from a file.
 *
 *   slot/file:  | header block: header + up to 100 descriptors | data, 4 KiB multiple | tail: the other descriptors |
 *
 * The header block has a fixed size, so the place of a record's data is known the moment it is appended; descriptors
 * that overflow wait at the far end of the slot and are moved behind the data when the frame is finished. A lone 4 KiB
 * write with a flush is 8 KiB on disk.
 *
 * Threading: none; the owner of the slot calls these. */
#ifndef CDP_FRAME_H
#define CDP_FRAME_H
#include "base/format.h"
#include "system/os.h"
#include "base/status.h"

#define CDP_FRAME_TAIL_BLOCKS 16u
#define CDP_FRAME_TAIL_BYTES (CDP_FRAME_TAIL_BLOCKS * CDP_BLOCK)
#define CDP_FRAME_MAX_DESCS (CDP_FRAME_HEAD_DESCS + CDP_FRAME_TAIL_BLOCKS * CDP_TAIL_DESCS) /* 1732 */
#define CDP_FRAME_MIN_SLOT (CDP_BLOCK + CDP_BLOCK + CDP_FRAME_TAIL_BYTES)
#define CDP_FRAME_MAX_BYTES (16u << 20) /* a parser believes no frame longer than this */

typedef struct cdp_frame {
    uint8_t *slot;        /* slot_bytes, aligned to CDP_BLOCK */
    uint32_t slot_bytes;
    uint32_t used_bytes;  /* header block + data so far */
    uint32_t n_desc;
    uint32_t frame;       /* number in its segment */
    uint32_t segment;
    uint32_t total_bytes; /* what to write; set by finish */
    uint64_t file_off;    /* bytes */
    uint64_t salt;
    uint64_t first_seq, last_seq, first_ts_ns;
    uint64_t flush_seq;
} cdp_frame;

void cdp_frame_start(cdp_frame *f, uint8_t *slot, uint32_t slot_bytes, uint32_t segment, uint32_t frame,
                     uint64_t file_off, uint64_t salt, uint64_t first_seq, uint64_t flush_seq);
/* Room for one more descriptor with `bytes` of data (a multiple of 512)? */
int cdp_frame_fits(const cdp_frame *f, uint32_t bytes);
/* Append; requires cdp_frame_fits. The data is copied; returns its location, 0 where there is none. */
uint64_t cdp_frame_add(cdp_frame *f, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors, uint16_t kind,
                       uint16_t flags, const void *data, uint32_t bytes, uint32_t crc);
/* Copies its descriptors, finished or still growing, to out[0..cap); returns how many there are. What was added before
 * the call is whole, also while another thread adds more; not while it is being finished. */
uint32_t cdp_frame_descs(const cdp_frame *f, struct cdp_record_desc *out, uint32_t cap);
/* Seal with checksum: slot[0..total_bytes) is then what goes to file_off. */
void cdp_frame_finish(cdp_frame *f, uint64_t durable_seq);
/* The checksums of the blocks of a finished frame, total_bytes / CDP_BLOCK of them. Those that are 0, so not known, are
 * computed. */
void cdp_frame_sums(const cdp_frame *f, uint32_t *sums);
/* What the frame comes to with one more small descriptor and its data. */
uint64_t cdp_frame_size_with(const cdp_frame *f, uint32_t bytes);
/* The most bytes that a frame with this much used can come to. */
static inline uint64_t cdp_frame_bound(const cdp_frame *f)
{
    return ((uint64_t)f->used_bytes + CDP_BLOCK - 1) / CDP_BLOCK * CDP_BLOCK + CDP_FRAME_TAIL_BYTES;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

/* Walks the frames of one segment file. `meta` holds header block + tail of the current frame. */
typedef struct cdp_frame_reader {
    const cdp_os *os;
    int fd;
    uint32_t segment;
    uint64_t salt;
    uint64_t end;         /* file size, or where a sealed segment's directory begins */
    uint64_t off;         /* of the next frame */
    uint32_t frame;       /* number expected next */
    uint64_t expect_seq;  /* 0: take the first frame's */
    uint8_t *meta;        /* CDP_BLOCK + CDP_FRAME_TAIL_BYTES */
    uint8_t *data;        /* of the frame at data_off, in room for data_room bytes */
    uint64_t data_room, data_off; /* data_off 0: of none */
    struct cdp_frame_header head;
    uint64_t frame_off;   /* of the current frame */
    uint32_t *sums;       /* NULL, or gets the checksums of the blocks of verified frames, by block of the file */
} cdp_frame_reader;

int cdp_frame_reader_init(cdp_frame_reader *r, const cdp_os *os, int fd, uint32_t segment, uint64_t salt, uint64_t end,
                          uint64_t expect_seq);
void cdp_frame_reader_free(cdp_frame_reader *r);
/* 1: a valid frame is current (with verify_data: its data too); 0: no valid frame at r->off (the end, or a torn one);
 * negative: -cdp_code, st filled (an I/O error, never mere garbage). */
int cdp_frame_reader_next(cdp_frame_reader *r, int verify_data, cdp_status *st);
/* Descriptor i of the current frame, i < head.n_desc. */
const struct cdp_record_desc *cdp_frame_reader_desc(const cdp_frame_reader *r, uint32_t i);
/* Does the data of descriptor i match its checksum? 1, 0 (st says where), or a negative code. */
int cdp_frame_reader_data_ok(cdp_frame_reader *r, uint32_t i, cdp_status *st);
/* The data of the current frame to r->data. 1, 0 (the file ends before), or a negative code. */
int cdp_frame_reader_load(cdp_frame_reader *r, cdp_status *st);
/* From r->off on, past what is invalid: the highest durable_seq that any later valid frame of this segment claims; 0 if
 * there is none. Distinguishes a torn tail (nothing later was durable) from damage. */
int cdp_frame_reader_later_durable(cdp_frame_reader *r, uint64_t *durable_seq, cdp_status *st);

#endif

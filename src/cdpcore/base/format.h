/* What is on disk, as C structs. docs/format.md gives the same bytes with their validity rules; where the two differ,
 * the document is right. All integers little-endian; sectors are 512 bytes. */
#ifndef CDP_FORMAT_H
#define CDP_FORMAT_H
#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "cdpcore reads its files in place and needs a little-endian machine"
#endif

#define CDP_SECTOR 512u
#define CDP_BLOCK 4096u          /* alignment of frames and file headers */
#define CDP_MAX_SECTORS (1ull << 47) /* 64 PiB: the most that a volume can have */
#define CDP_FORMAT_VERSION 1u

#define CDP_SEGMENT_MAGIC 0x31474553504443ull /* "CDPSEG1" */
#define CDP_TRAILER_MAGIC 0x31444e45504443ull /* "CDPEND1" */
#define CDP_FRAME_MAGIC 0x314d5246504443ull   /* "CDPFRM1" */
#define CDP_DISK_MAGIC 0x314b5344504443ull    /* "CDPDSK1" */
#define CDP_SUMS_MAGIC 0x314d5553504443ull    /* "CDPSUM1" */
#define CDP_RUN_MAGIC 0x314e5552504443ull     /* "CDPRUN1" */

enum cdp_kind {           /* of a record */
    CDP_KIND_WRITE = 1,
    CDP_KIND_ZERO = 2,    /* reads as zeros, allocated */
    CDP_KIND_TRIM = 3,    /* reads as zeros, a hole */
    CDP_KIND_FLUSH = 4,
    CDP_KIND_BOOKMARK = 5, /* start = the seq it names; data: u64 ts of that seq, then the UTF-8 name */
    CDP_KIND_RESTORE = 6,  /* start, sectors = the range; data: struct cdp_restore_data */
    CDP_KIND_UNBOOKMARK = 7, /* data: UTF-8 name of a bookmark taken away */
    CDP_KIND_WRITEBACK = 8,  /* before-images: a range was put back to what a restore says */
    CDP_KIND_RESTORED = 9,   /* before-images: restores up to seq `start` are written back completely */
    CDP_KIND_FOREIGN = 10,   /* before-images: others changed the range; what it held is not known; HOLE: it was none */
};
enum cdp_record_flags {
    CDP_REC_MORE = 1, /* the next descriptor belongs to the same record (same seq) */
    CDP_REC_FUA = 2,
    CDP_REC_BEFORE = 4, /* the data is what the range held before; none: it read as zeros */
    CDP_REC_HOLE = 8,   /* with BEFORE, no data: it was a hole */
    CDP_REC_SAME = 16,  /* with BEFORE, no data: the record changed nothing */
    CDP_REC_META = 32,  /* its sender called it metadata */
};

/* Where a version's data lies: segment number << 32 | sector in that segment's file. Segments count from 1, so the
 * values below 2^32 are free for these: */
#define CDP_LOC_ZERO 1ull
#define CDP_LOC_HOLE 2ull
#define CDP_LOC_BASE 3ull /* never on disk: no version is visible, the base has it */
#define CDP_LOC_UNKNOWN 4ull /* what was there is not known: it cannot be read */
static inline uint64_t cdp_loc(uint32_t segment, uint64_t byte_off)
{
    return (uint64_t)segment << 32 | byte_off / CDP_SECTOR;
}
/* Whether a record of this kind changes content, so that the index has it. */
static inline int cdp_kind_changes(uint16_t kind)
{
    return kind <= CDP_KIND_TRIM || kind == CDP_KIND_WRITEBACK || kind == CDP_KIND_FOREIGN;
}
static inline int cdp_loc_is_data(uint64_t loc) { return loc >> 32 != 0; }
/* The location of a sector `delta` further on. */
static inline uint64_t cdp_loc_add(uint64_t loc, uint64_t delta) { return cdp_loc_is_data(loc) ? loc + delta : loc; }

struct cdp_segment_header { /* first 4096 bytes of log/N.log; rest zero */
    uint64_t magic;
    uint32_t version;
    uint32_t crc;           /* CRC-32C of the 4096 bytes with this field zero */
    uint8_t volume_uuid[16];
    uint64_t volume_bytes;
    uint64_t created_ns;    /* of the volume */
    uint32_t segment;
    uint32_t flags;         /* enum cdp_segment_flags; unknown bits are refused */
    uint64_t salt;          /* random; every frame of the file carries it */
};

enum cdp_segment_flags {
    CDP_SEGMENT_BEFORE = 1, /* its volume keeps before-images */
};

struct cdp_record_desc {
    uint64_t ts_ns;
    uint64_t start;         /* sector */
    uint64_t sectors;
    uint32_t data_sector;   /* in the segment file; 0: no data */
    uint32_t crc;           /* CRC-32C of the data; 0: no data */
    uint16_t kind;
    uint16_t flags;
    uint32_t data_bytes;    /* of the data kept in the log */
};

struct cdp_frame_header { /* first bytes of a frame, followed by descriptors up to the end of the block */
    uint64_t magic;
    uint64_t salt;
    uint64_t first_seq;
    uint64_t durable_seq;   /* what was known to be durable when the frame was closed */
    uint64_t flush_seq;     /* the last FLUSH or FUA record at or before the frame's end; 0: none */
    uint32_t frame;         /* counts from 0 in a segment */
    uint32_t n_desc;
    uint32_t data_bytes;    /* after the header block, multiple of 4096 */
    uint32_t tail_bytes;    /* descriptors that did not fit the header block, multiple of 4096 */
    uint32_t offset_blocks; /* the frame's own place in the file, in 4096-byte blocks */
    uint32_t crc;           /* CRC-32C of header block + tail with this field zero */
};
#define CDP_FRAME_HEAD_DESCS ((CDP_BLOCK - sizeof(struct cdp_frame_header)) / sizeof(struct cdp_record_desc))
#define CDP_TAIL_DESCS (CDP_BLOCK / sizeof(struct cdp_record_desc)) /* per tail block; the rest of the block is zero */

struct cdp_frame_entry { /* a sealed segment's directory: one per frame */
    uint64_t first_seq;
    uint64_t first_ts_ns;
    uint64_t flush_seq;
    uint32_t offset_blocks;
    uint32_t n_desc;
};

struct cdp_segment_trailer { /* last 4096 bytes of a sealed segment; rest zero */
    uint64_t magic;
    uint64_t salt;
    uint64_t first_seq, last_seq;     /* last < first: no records */
    uint64_t first_ts_ns, last_ts_ns;
    uint64_t directory_offset;        /* bytes; entries, then zeros up to a block */
    uint32_t n_frames;
    uint32_t directory_crc;           /* CRC-32C of n_frames entries */
    uint32_t segment;
    uint32_t crc;                     /* CRC-32C of the 4096 bytes with this field zero */
    uint64_t sums_offset;             /* bytes: the table of block checksums; 0: there is none */
};
#define CDP_SUMS_PER_PAGE 1023u       /* u32 a page of that table, then the page's own checksum */

#define CDP_SUMS_UNKNOWN 0xFFFFFFFFu /* of a block of disk.sums: its checksum is not known */

struct cdp_sums_header { /* first 4096 bytes of log/N.sums, base.sums and disk.sums; rest zero */
    uint64_t magic;
    uint32_t version;
    uint32_t crc;           /* CRC-32C of the 4096 bytes with this field zero */
    uint8_t volume_uuid[16];
    uint32_t segment;       /* 0: the base, the disk */
    uint32_t zero;
    uint64_t salt;          /* of the segment; of the base random */
    uint64_t n_blocks;
    uint64_t seq;           /* disk.sums: of the disk that holds the records up to this one; else 0 */
    uint64_t known_blocks;  /* disk.sums: from this one on they are not known; else 0 */
};

#define CDP_ACTIVITY_MAGIC 0x31544341504443ull /* "CDPACT1" */
#define CDP_ACTIVITY_CELLS 48u
#define CDP_ACTIVITY_PLACES 64u

struct cdp_activity_cell { /* activity/L.cells: what was done in one interval */
    uint64_t slot;          /* the interval: its begin since 1970, divided by its width */
    uint64_t written;       /* sectors ... */
    uint64_t overwritten;   /* ... of these, that held data */
    uint64_t zeroed;
    uint64_t trimmed;
    uint32_t writes, zeroes, trims, flushes;    /* records */
    float places[CDP_ACTIVITY_PLACES];          /* written sectors, by place */
};

struct cdp_activity_header { /* before the cells of a summary */
    uint64_t magic;
    uint32_t crc;           /* CRC-32C of the header and its cells with this field zero */
    uint32_t n_cells;
    uint8_t volume_uuid[16];
    uint32_t number;        /* of the first segment that it is about */
    uint32_t level;
    uint64_t width_ns;
    uint64_t place_sectors;
    uint64_t last_seq;      /* level 0: of the segment; else 0 */
};

struct cdp_restore_data {
    uint64_t target_seq;
    uint32_t flags;         /* 1: destructive */
    uint32_t zero1;
    uint64_t target_ts_ns;
    uint64_t undo_of;       /* seq of the restore that this one undoes; 0: none */
    uint64_t zero2;
};

/* VOLUME/disk.state: two of these, 4096 bytes apart, written in turn; the valid one of the higher generation counts. */
struct cdp_disk_state {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;           /* CRC-32C of these 64 bytes with this field zero */
    uint8_t volume_uuid[16];
    uint64_t generation;
    uint64_t applied_seq;   /* the disk holds every change up to this record, durably */
    uint64_t changed_ns;    /* when the disk's content had been changed last, as its file system says; 0: not known */
    uint64_t zero;
};

/* A run: header, then blocks of (versions..., up to 128 extents), then the fences, then a CRC table. */
#define CDP_RUN_BLOCK_EXTENTS 128u
#define CDP_RUN_CRC_SPAN 65536u
struct cdp_run_header { /* first 4096 bytes; rest zero */
    uint64_t magic;
    uint32_t version;
    uint32_t crc;           /* CRC-32C of the 4096 bytes with this field zero */
    uint8_t volume_uuid[16];
    uint64_t first_seq, last_seq;
    uint32_t first_segment, last_segment;
    uint64_t n_extents, n_versions;
    uint64_t n_blocks;
    uint64_t fences_offset; /* n_blocks fences; fence i's block ends where the next one's versions begin */
    uint64_t crcs_offset;   /* one u32 per CDP_RUN_CRC_SPAN bytes of [4096, crcs_offset) */
    uint64_t file_bytes;
    uint32_t crcs_crc;      /* CRC-32C of the CRC table */
    uint32_t flags;
};
struct cdp_run_extent {
    uint64_t start;         /* sector */
    uint32_t sectors;       /* > 0; a longer extent is kept as several */
    uint32_t first_version; /* relative to the block's first version; the column ends at the next extent's */
};
struct cdp_run_version {
    uint64_t seq;           /* ascending within a column */
    uint64_t loc;           /* of the extent's first sector */
};
struct cdp_run_fence {
    uint64_t start;         /* the block's first sector */
    uint64_t versions_offset;
    uint64_t extents_offset;
    uint32_t n_extents;     /* 1..128 */
    uint32_t n_versions;
};

_Static_assert(sizeof(struct cdp_segment_header) == 64, "segment header");
_Static_assert(sizeof(struct cdp_disk_state) == 64, "disk state");
_Static_assert(sizeof(struct cdp_record_desc) == 40, "record descriptor");
_Static_assert(sizeof(struct cdp_frame_header) == 64, "frame header");
_Static_assert(sizeof(struct cdp_frame_entry) == 32, "frame entry");
_Static_assert(sizeof(struct cdp_segment_trailer) == 80, "segment trailer");
_Static_assert(sizeof(struct cdp_sums_header) == 72, "header of a table of checksums");
_Static_assert(sizeof(struct cdp_activity_cell) == 312, "cell of a summary");
_Static_assert(sizeof(struct cdp_activity_header) == 64, "header of a summary");
_Static_assert(sizeof(struct cdp_restore_data) == 40, "restore data");
_Static_assert(sizeof(struct cdp_run_header) == 112, "run header");
_Static_assert(sizeof(struct cdp_run_extent) == 16, "run extent");
_Static_assert(sizeof(struct cdp_run_version) == 16, "run version");
_Static_assert(sizeof(struct cdp_run_fence) == 32, "run fence");
_Static_assert(CDP_FRAME_HEAD_DESCS == 100, "descriptors in a header block");
_Static_assert(CDP_TAIL_DESCS == 102, "descriptors in a tail block");

#endif

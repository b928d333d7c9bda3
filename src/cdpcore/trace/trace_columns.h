/* A table that the user describes: which column holds what, in which unit (docs/traces.md, --columns). */
#ifndef CDP_TRACE_COLUMNS_H
#define CDP_TRACE_COLUMNS_H
#include <stdint.h>

enum { CDP_TRACE_MAX_COLUMNS = 256, CDP_TRACE_MAX_WORDS = 64, CDP_TRACE_MAX_WORD = 32 };

/* Constant while lines are read. Columns count from 1; 0: the table has none. */
typedef struct cdp_trace_columns {
    uint32_t time, op, device, offset, size;
    uint32_t last;             /* the largest of them */
    uint32_t time_scale;       /* the unit of time is 10^time_scale ns, at most 9 */
    uint64_t time_base_ns;     /* subtracted: where the column's 0 lies before 1970 */
    uint64_t offset_unit_bytes, size_unit_bytes;
    uint32_t kind;             /* of every request, where there is no column op */
    uint32_t words;
    char word[CDP_TRACE_MAX_WORDS][CDP_TRACE_MAX_WORD]; /* of column op, in lower case */
    uint8_t word_bytes[CDP_TRACE_MAX_WORDS], word_kind[CDP_TRACE_MAX_WORDS];
} cdp_trace_columns;

#endif

/* Zeros where a file has something else.
 *
 * Threading: none; the caller owns the buffer and the file. */
#ifndef CDP_ZERO_RANGE_H
#define CDP_ZERO_RANGE_H
#include <stdint.h>
#include "system/os.h"

/* n zeros at byte `at`, by pieces of the `step` bytes of `buffer`; 0 or a negative errno. What is zero already is only
 * read, and so needs no space: a full file system must not be in the way. */
int64_t cdp_zero_range(const cdp_os *os, int fd, uint64_t at, uint64_t n, uint8_t *buffer, uint64_t step);

#endif

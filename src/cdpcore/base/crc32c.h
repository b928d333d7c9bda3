/* CRC-32C (Castagnoli), the checksum of everything on disk.
 *
 * cdp_crc32c(0, "123456789", 9) == 0xE3069283. A checksum is continued by passing the previous result:
 * cdp_crc32c(cdp_crc32c(0, a, n), b, m) is the checksum of a followed by b.
 *
 * The implementation is chosen once, at the first call, from what the processor has; all give the same bits.
 * Threading: any thread, no lock. p may have any alignment; n may be 0 (p is not read then). */
#ifndef CDP_CRC32C_H
#define CDP_CRC32C_H
#include <stddef.h>
#include <stdint.h>

uint32_t cdp_crc32c(uint32_t crc, const void *p, size_t n);
/* The checksum of p[0..n), and of each whole block of it, to sums[0..n / CDP_CRC32C_BLOCK), in one pass. */
#define CDP_CRC32C_BLOCK 4096u
uint32_t cdp_crc32c_blocks(const void *p, size_t n, uint32_t *sums);
/* The twin without special instructions (slicing by 8). */
uint32_t cdp_crc32c_portable(uint32_t crc, const void *p, size_t n);
/* The implementations that this machine can run, first the one that cdp_crc32c uses: *fn, and the name, of number i;
 * NULL: there are no more. */
typedef uint32_t (*cdp_crc32c_fn)(uint32_t crc, const void *p, size_t n);
const char *cdp_crc32c_implementation(uint32_t i, cdp_crc32c_fn *fn);

#endif

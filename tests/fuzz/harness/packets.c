/* Requests of the control plane to a data plane: what the one check accepts is safe to compute with. */
#include "fuzz.h"
#include "channel/mdpacket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint64_t size;
    cdp_mdpacket p;
    cdp_status st = {0};
    if (n < 8 + sizeof p)
        return 0;
    memcpy(&size, data, 8);
    memcpy(&p, data + 8, sizeof p);
    int rc = cdp_mdpacket_check(&p, size, &st);
    FUZZ_CHECK(rc == CDP_OK || (rc == CDP_INVALID && st.where));
    if (rc != CDP_OK)
        return 0;
    uint64_t bytes = 0;
    FUZZ_CHECK(p.n_bgs <= CDP_MD_BGS && p.op >= CDP_MD_READ && p.op <= CDP_MD_INQUIRE);
    for (uint32_t i = 0; i < p.n_bgs; i++) {
        FUZZ_CHECK(p.bg[i].length_bytes && p.bg[i].offset_bytes + p.bg[i].length_bytes >= p.bg[i].offset_bytes);
        bytes += p.bg[i].length_bytes;
    }
    if (p.op >= CDP_MD_FLUSH)
        return 0;
    FUZZ_CHECK(cdp_mdpacket_offset(&p) / CDP_MD_SECTOR == p.lba);
    FUZZ_CHECK(cdp_mdpacket_offset(&p) <= size && p.length_bytes && p.length_bytes <= size - cdp_mdpacket_offset(&p));
    FUZZ_CHECK(bytes == (p.op == CDP_MD_READ || p.op == CDP_MD_WRITE ? p.length_bytes : 0));
    return 0;
}

"""What was done in a segment, by time and by place (log/activity.h)."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "log/activity.h" nogil:
    enum:
        CDP_ACTIVITY_WIDTHS

    struct cdp_activity_cell:
        uint64_t slot

    struct cdp_activity_sample:
        uint64_t seq

    struct cdp_activity:
        uint32_t n_cells, n_samples
        uint32_t width, place_shift
        uint32_t stride, before
        cdp_activity_cell cells[48]
        cdp_activity_sample samples[512]

    void cdp_activity_start(cdp_activity *a, uint64_t volume_sectors, bint before)
    void cdp_activity_add(cdp_activity *a, uint64_t seq, uint64_t ts_ns, uint16_t kind, uint64_t start,
                          uint64_t sectors, uint64_t held)
    uint64_t cdp_activity_width_ns(uint32_t width)

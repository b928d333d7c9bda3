"""The simulated operating system (system/os_sim.h)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from cdpcore.system.os_table cimport cdp_os


cdef extern from "system/os_sim.h" nogil:
    ctypedef struct cdp_sim:
        pass

    enum:
        CDP_SIM_SEEDED
        CDP_SIM_DROP
        CDP_SIM_KEEP
        CDP_SIM_KILLED
        CDP_SIM_ANY
        CDP_SIM_N_CALLS

    cdp_sim *cdp_sim_new(uint64_t seed)
    void cdp_sim_free(cdp_sim *sim)
    const cdp_os *cdp_sim_os(cdp_sim *sim)
    uint64_t cdp_sim_calls(cdp_sim *sim)
    uint64_t cdp_sim_count(cdp_sim *sim, uint32_t call)
    void cdp_sim_cut_at(cdp_sim *sim, uint64_t n)
    int cdp_sim_powered(cdp_sim *sim)
    int cdp_sim_power_on(cdp_sim *sim, uint32_t mode)
    int cdp_sim_fail(cdp_sim *sim, uint32_t call, const char *part, uint64_t n, uint64_t times, int err)
    int cdp_sim_lose_write(cdp_sim *sim, const char *part, uint64_t n)
    int cdp_sim_misdirect_write(cdp_sim *sim, const char *part, uint64_t n, int64_t delta)
    void cdp_sim_clear_faults(cdp_sim *sim)
    int cdp_sim_flip(cdp_sim *sim, const char *path, uint64_t byte, uint32_t bit)
    int cdp_sim_set_space(cdp_sim *sim, uint64_t bytes)
    uint64_t cdp_sim_space_used(cdp_sim *sim)
    void cdp_sim_set_sparse(cdp_sim *sim, int on)
    void cdp_sim_set_clock(cdp_sim *sim, uint64_t ns, int64_t step)
    uint64_t cdp_sim_open_handles(cdp_sim *sim)
    uint64_t cdp_sim_open_maps(cdp_sim *sim)
    uint64_t cdp_sim_open_queues(cdp_sim *sim)
    uint64_t cdp_sim_misuse(cdp_sim *sim)

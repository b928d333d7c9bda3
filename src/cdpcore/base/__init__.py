"""Errors and status, CRC-32C, and the C declarations that every layer shares.

    checksum  CRC-32C for Python
    errors    the kinds of error, and check(): the one converter from a C status to an exception
    format.h  what is on disk (docs/format.md); target.h: a disk as a front end sees it, eleven C functions
    bell      wakes the one thread that looks what maintenance is to be done
    workers   the process's threads for calls that wait for a device (worker_threads.h)
    histogram, stages  where the time of a volume's requests goes (histogram.h, stages.h)
    status.h, gate.h, thread.h, clock.h, latency.h, zeros.h, crc32c.h: small C, each declared in its .pxd
"""

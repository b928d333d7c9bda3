"""The operating system as one table of functions: real, plain POSIX, simulated.

    os.h      the table, and what every call promises; os_posix.c: the real one; os_sim*.c: the simulated machine
    os        the table as Python sees it, and the controls of a simulated machine
    file      an open file, for cold paths
    io_queue  operations in flight
    partial   the real one, with files that are here in part: what is missing is fetched
    zero_range.h  zeros where a file has something else
"""

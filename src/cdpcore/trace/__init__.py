"""Block traces: native parsers, the replay driver, the check of its result.

    parse       text, blktrace events and write logs to records (trace_*.c)
    driver      a trace's requests issued to a target; nbd_driver: to an NBD server
    check       what a disk must hold after a replay, compared with what it holds
"""

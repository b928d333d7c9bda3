"""The core of one volume: its requests, on the log and the index.

    core           every request of a volume: check, append, index; look up, read
    extents        block status while it is put together
    volume_target  a volume or time image as a target (base/target.h)
    flush_tap      a target that notes at which record each flush of a client was
"""

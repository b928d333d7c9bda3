"""The core of one volume: its requests, on the log and the index.

    core           every request enters and leaves here; flushes and events
    admission      writes slowed or refused, where the history has a limit
    content        what a kind of volume does with a request: the seam between core and kind
    after_images   the kind whose content is in the log; the other one is cdpcore.inplace.before_images
    barrier        one moment of several volumes
    history        which records changed a range
    changes        what differs between two moments
    rewrites       what is read and then overwritten, for who looks for suspicious changes
    extents        block status while it is put together
    volume_target  a volume or time image as a target (base/target.h)
    flush_tap      a target that notes at which record each flush of a client was
"""

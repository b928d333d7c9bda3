"""The library's object: volume, time images, writable images, restores.

    volume           Volume: the public API, put together from the parts below, none of which knows it
    resolver         turns a point into a moment, for all of them; bookmarks: moments with names;
                     times: what a time means where the clock was wrong
    time_image       a read-only disk that shows a moment; buffers: what both have in common
    activity         what was done, in intervals of time and by place
    changes          the versions of a range, and what differs between two moments
    bisect           the last good and the first bad moment, by a test
    writable_images  volumes under images/NAME whose base is their parent at a moment
    restores         restore, undo, their preview; reclaimer: when what a destructive one discarded is freed
    retention        the oldest history is given up: what holds it, and what is done in the background
    thinning         moments of the middle are given up, and what only they show is freed
    limit_keeper     the limit of the history: writes are slowed or refused
    policy_keeper    the retention policy: kept, explained, and carried out now and then
    writeback        the background work of a restore of a before-image volume
    adopt            a disk that was changed outside is taken; letting go of a disk; deletion: a volume deleted
    foreign_writes   the history goes on with a disk that others changed; unknown_blocks: what it does not know since
    barrier          one moment of several volumes
    resizing         a volume of another size
"""

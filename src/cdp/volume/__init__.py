"""The library's object: volume, time images, writable images, restores.

    volume           Volume: the public API. Volume.resolve turns a point into a moment
    time_image       a read-only disk that shows a moment; buffers: what both have in common
    writable_images  volumes under images/NAME whose base is their parent at a moment
    writeback        the background work of a restore of a before-image volume
    adopt            a new history for a disk that was changed outside; letting go of a disk
"""

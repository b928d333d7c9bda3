"""Before-images: a disk written in place, whose old content the log keeps.

    before_images  the kind of volume (volume/content.pxd): what a change does
    old_content    what announced changes will overwrite, read for many of them at once
    disk           the protected disk; reader: the read path; settler: new content goes to the disk, in rounds
    pending        new content that is not on the disk yet; range_lock: ranges that are being changed
    disk_state     up to which record the disk holds everything (VOLUME/disk.state)
    disk_sums      checksums of the disk's blocks (VOLUME/disk.sums)
    writeback      a restore put on the disk, piece by piece; spans: ranges of sectors with their content
"""

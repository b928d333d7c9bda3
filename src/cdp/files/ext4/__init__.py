"""The reader of ext2, ext3 and ext4, with the transactions of the journal applied.

filesystem: paths, directories, contents. superblock, inode, journal: what is on the disk; checksum: theirs.
"""

"""Files of a moment, read from the bytes of a disk without mounting it.

model: what a reader reads (Source) and what it is (FileSystem). detect, partitions: which file system is where. ext4:
the reader of ext2, ext3 and ext4. worker: the process without rights that all of these run in; sandbox takes its rights
away. session: the other end, in the process that has the disk; channel: what goes between the two. versions: the states
of a file from moment to moment, with follow in the reader's process. changes: what differs between two moments.
"""

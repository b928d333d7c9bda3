"""A volume's folder, and what keeps it: opened and closed as one by store.Store.

    volume_files         the names of all files, for all layers above; nothing is imported there
    layout, description  the folder as a whole and the lock; volume.json
    records, catalog     kinds of records and what events do to the catalog; the catalog (LMDB, can be rebuilt)
    creation             a volume made: complete, or not there
    kinds                what a kind of volume (after-images, before-images) does in its own way
    store                an open volume's parts put together
    recovery             what the log holds after the last segment that the catalog knows
    timeline             from a time or seq to its record: where a point is found in the log
    record_arrays        frames and records of the log as NumPy arrays, for it
    maintenance          sealing, runs and merges beside the data path; shared_threads: what runs it, for all volumes
    reclaim              freeing what a destructive restore discarded; fold: the oldest history goes into the base
    unseen               what the log keeps for moments that nobody wants
    base_image           the content before the first record, filled by an import; image_formats: whether it is raw
    checksums            tables of checksums for what was made without; damage_watch: reports what does not match
    protected_disk       the disk of a before-image volume, recognised; put_back: its recovery; disk_check: its check;
                         disk_table: the table of its checksums
    output_files         what a user has written to a file: not onto a volume; block_devices: which ones share storage
    attached             folders whose files are here in part only
    folder_watch         whether the folder is still where it was; disk_watch: and the disk;
                         free_space: whether a write fits; space_watch: whether space runs out;
                         spare_files: for when no file can be made
    failure_watch        reports that a write of the log or the disk failed
    clock_watch          whether the clock went back, and what is to be done then
    activity             what was done, by time and place, summed up by segment; activity_cells: as NumPy arrays
    checked_json         small files with a checksum, as these:
    retention_file       retention.json; steady_clock: what ages are counted by;
                         history: the timeline as retention looks at it; space: what the files take
    thinned_file         thinned.json: which moments of the middle can be opened
    scrub_file           scrub.json: how far the scrub has come
    copies_file          copies.json: when a backup and an archive were last made
    standby_file         standby.json: whether the folder follows a volume elsewhere
    group_file           group.json: which volumes a group has, its moments, and what is going on
    tuning               the numbers that the engine runs with; memory: how much the logs of a process have
"""

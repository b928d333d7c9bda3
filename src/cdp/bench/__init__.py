"""`cdp bench`: what a volume does on a user's own machine, beside a plain file in the same folder.

    load     requests of one kind, over NBD and in process
    place    where the files go: free space, and that nothing stays behind
    run      rounds that alternate, and what they measured
    spread   figures with their range
    machine  what a figure depends on
    report   text, JSON and a picture
"""

"""Which version of a sector is where: extent trees, runs, look-ups, views.

    versions  what is visible: the trees of segments that are not sealed, and a snapshot of lineage and runs
    view      a lineage in the form that look-ups read
    runs      runs made, merged and installed under readers
    unseen    the look-up the other way round: which data a moment does not show
    inspect   trees, runs and look-ups for Python: `cdp check`, tests
    index.h   extent_tree.c; run.c, run_write.c, run_merge.c; lookup.c, and lookup_before.c for before-images
"""

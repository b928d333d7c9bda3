"""A second copy of a served volume on another host, kept up to date: its log, byte by byte (docs/standby.md).

    wire       messages between the two
    sender     the owner's side of a connection; listener: where standbys connect; standing: how far they have come
    receiver   the standby's side of it; copy: the folder that it writes; upkeep: its catalog, index and base
"""

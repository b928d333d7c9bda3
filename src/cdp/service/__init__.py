"""The operations on a volume, local or through its server, behind one protocol (cdp.views.Service).

    connect       from a path to its operations, whichever way
    local         what each operation does, with results that are plain JSON
    retention     what the operations on policies, pins and space answer
    finding       versions of a range, and what differs between two moments
    files_at      the files of a moment
    copies        the last backup and the last archive of a volume
    care          what a server does for a volume beside serving it
    watch         what is looked at for the alerts of a volume; alerts: the rules
    suspicion     whether changes look like encryption in place; changes: the looks at a volume, and the bookmark
    groups        several volumes with moments in common; together: one moment of those of this process
    servers       all servers of this user
    status        whether volumes are well
    rates         what came between two looks at the metrics of a volume
    remote        the same operations through the administration API of a server (cdp.serve.http_api)
    remote_volume  a volume that another process serves, as an object like Volume: cdp.connect
    remote_content  the bytes of such a volume
    remote_watch  what happens to such a volume: its watch(); event_line: the connection that it waits at
    locate        which volume or image a path names; serving_file: which server has it
"""

"""High availability on one machine: clients do not notice the death of a server process.

    gateway  NBD front end and I/O source: receives requests into shared memory, keeps what is not written yet
             (cdpcore.channel.gateway)
    daemon   opens volumes and carries requests out, from the shared memory (cdpcore.channel.executor); the active
             daemon, or a warm standby
    manager  starts them, watches, fences, hands over, so that every volume always has exactly one owner
    process  what the manager starts: the main function of gateway and daemon

docs/ha.md says what is guaranteed and what is lost when.
"""

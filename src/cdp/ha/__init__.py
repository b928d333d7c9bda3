"""High availability on one machine: a gateway that keeps the clients, time store daemons that keep the volumes, and a manager that
sees to it that every volume always has exactly one of them.

    gateway   NBD front end and I/O source: receives requests into shared memory, keeps what is not written yet (cdpcore.channel.gateway)
    daemon    opens volumes and carries requests out, from the shared memory (cdpcore.channel.executor); the active one, or a warm standby
    manager   starts them, watches, fences, hands over

docs/ha.md says what is guaranteed and what is lost when.
"""

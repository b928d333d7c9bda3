"""A server: its volumes, clients, alerts."""
from cdp.views.moments import MomentView
from cdp.views.typed import TypedDict


class NotOpenView(TypedDict):
    """A volume of a server that is not served, yet. state: opening; cannot be opened, and `error` says why."""

    name: str
    path: str
    state: str
    error: str | None


class ServedVolumeView(TypedDict):
    """A volume that some server has; or a server that does not answer, with little more than its socket. `clients`: NBD
    connections to the volume and its moments."""

    name: str | None
    path: str | None
    state: str
    pid: int | None
    admin_socket: str
    uris: list[str]
    size_bytes: int | None
    newest_seq: int | None
    clients: int | None


class AlertView(TypedDict):
    """An alert that is raised, since `since`. kind: forecast, floor, limit, maintenance, scrub, clock, unflushed,
    suspicious or standby; level: warning or error; `what` happened, and a `hint` what to do."""

    kind: str
    level: str
    what: str
    hint: str
    since_ns: int
    since: str


class StandbyView(TypedDict):
    """The standby of a volume. connected: now, from `who`; `since`: since when it is, or is not, or when the
    server began. mode: async. It has all up to record `seq`, durably. lag_records, lag_bytes: what it lacks, the bytes
    of the log; lag_ns: the age of the oldest record that it lacks. sent_bytes: by connections that ended."""

    id: str
    who: str
    connected: bool
    mode: str
    since_ns: int | None
    since: str | None
    epoch: int
    seq: int
    lag_records: int
    lag_bytes: int
    lag_ns: int
    sent_bytes: int


class StandbyDetachedView(TypedDict):
    """The id of the standby that a volume has no more; None: it had none."""

    id: str | None


class StatusView(TypedDict):
    """One volume. state: serving, not served, does not answer, failed. flushed: the newest moment that a client
    flushed; unflushed_ns: the age of the oldest write after it. days_left: until the device is full. attention: what
    needs it, a line each. alerts: what its server has raised. None: not known."""

    volume: str
    state: str
    pid: int | None
    oldest: MomentView | None
    newest: MomentView | None
    flushed: MomentView | None
    unflushed_ns: int | None
    clients: int | None
    history_bytes: int | None
    total_bytes: int | None
    free_bytes: int | None
    days_left: float | None
    attention: list[str]
    alerts: list[AlertView]
    standby: StandbyView | None


class ServedView(TypedDict):
    """The server that holds a volume."""

    pid: int
    admin_socket: str
    name: str
    uris: list[str]


class ClientView(TypedDict):
    """An NBD connection to a volume or one of its moments. `who`: the client, for people; `written_bytes`: None where
    that is not counted."""

    connection: int
    export: str
    who: str
    read_only: bool
    connected_ms: int
    written_bytes: int | None

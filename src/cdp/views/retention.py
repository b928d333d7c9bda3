"""How much history is kept: pins, the policy, what a plan frees, the space."""
from cdp.views.moments import MomentView
from cdp.views.typed import TypedDict


class PinView(TypedDict):
    """What needs a moment. kind: bookmark, image, time image or undo; `left_ns`: so long it is a pin yet, None: until
    its owner ends it."""

    kind: str
    owner: str
    reason: str
    at: MomentView
    left_ns: int | None


class PolicyView(TypedDict):
    """The retention policy: `policy` is its TOML text, None where there is none; `keep` its rules. `last_run`: when it
    was applied; `next_run_ns`: from now; `freed_bytes`: by all runs; `failed`: why the last run did not do it.
    `writes`: what the limit does to them: go on, slowed or refused; `room_bytes`: what may still be written until they
    are refused, None: as much as comes; `rate_bytes`: a second, where they are slowed; `refused`, `slowed`: how many
    were, since the volume was opened."""

    policy: str | None
    keep: list[str]
    floor_ns: int | None
    undo_ns: int | None
    limit_bytes: int | None
    when_full: str | None
    last_run: str | None
    next_run_ns: int | None
    freed_bytes: int
    failed: str | None
    writes: str
    room_bytes: int | None
    rate_bytes: int | None
    refused: int
    slowed: int


class KeptView(TypedDict):
    """What one rule keeps: so many points, from `oldest` to `newest`."""

    rule: str
    points: int
    oldest: MomentView
    newest: MomentView


class KeepingView(TypedDict):
    """What the volume's policy keeps now, of each tier, `all` first; of a volume without one: nothing is listed, for
    everything is kept. `needed`: the oldest moment that it asks for; older ones may go with the next run."""

    keep: list[str]
    kept: list[KeptView]
    needed: MomentView | None


class PlanView(TypedDict):
    """What a policy keeps of a volume now. `start`: the oldest moment that could be opened after it was applied;
    `needed`: the oldest one that it asks for (history goes in whole segments, so `start` may be older); `whole`: from
    it on every moment is kept. `held_by`: what keeps more than the rules do.
    `thinned_bytes`: about how much data of the rest no kept point shows, None where `all` is the only tier.
    `over_bytes`: by how much the rest is over the limit; `when_full`: what happens then; `limited`: the limit takes
    what the rules would keep. `bytes_a_day`: at today's rate, None where that is not known; `days_in_limit` at that
    rate. `cannot`: why this release does not carry such a policy out."""

    keep: list[str]
    limit_bytes: int | None
    when_full: str | None
    oldest: MomentView
    newest: MomentView
    start: MomentView
    needed: MomentView
    whole: MomentView
    kept: list[KeptView]
    pins: list[PinView]
    held_by: list[str]
    history_bytes: int
    freed_bytes: int
    thinned_bytes: int | None
    over_bytes: int
    limited: bool
    records_lost: int
    bookmarks_lost: list[str]
    bytes_a_day: int | None
    days_in_limit: float | None
    cannot: str | None


class PruneView(TypedDict):
    """History that was given up by the policy, or (`dry_run`) would be: the oldest moment was `before`, and is
    `start`; of the moments after it `moments_thinned` cannot be opened any more."""

    dry_run: bool
    before: MomentView
    start: MomentView
    freed_bytes: int
    moments_thinned: int
    held_by: list[str]


class SpaceView(TypedDict):
    """What a volume takes on the device, in allocated bytes, by what: `log_ahead_bytes` of `log_bytes` are allocated
    and not written yet. `history_bytes`: what a limit counts. `bytes_a_day`: how fast that grows; `levels_off_bytes`:
    what it comes to with the policy at that rate; `days_to_limit`, `days_to_full`: until it meets the limit, and until
    the device is full; None: never, or not known."""

    total_bytes: int
    log_bytes: int
    log_ahead_bytes: int
    index_bytes: int
    base_bytes: int
    images_bytes: int
    catalog_bytes: int
    reserve_bytes: int
    other_bytes: int
    device_free_bytes: int
    device_bytes: int
    history_bytes: int
    bytes_a_day: int | None
    limit_bytes: int | None
    levels_off_bytes: int | None
    days_to_limit: float | None
    days_to_full: float | None

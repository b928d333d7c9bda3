"""The retention policy of an open volume: kept, explained, and carried out now and then.

What a policy keeps is worked out by cdp.moments.retention; how history is given up is cdp.volume.retention's; what must
survive the process is in retention.json (cdp.store.retention_file). Time is counted by a clock that is never set
(cdp.moments.ages): it is sampled about once a second while there is a policy.

Threading: under the volume's lock, which upkeep() takes itself, if it is free; report() and plan() from any thread.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cdp.moments import policy as policies
from cdp.moments.ages import Ages, Sample, agree, joined
from cdp.moments.limit import GO_ON, Admitted
from cdp.moments.model import Freed, Hold, Moment
from cdp.moments.policy import Policy
from cdp.moments.retention import Pin, Plan, plan, since
from cdp.store import retention_file
from cdp.store.history import StoreHistory
from cdp.store.retention_file import Kept
from cdp.store.steady_clock import Steady, passed_ns, steady
from cdp.store.store import Store
from cdp.store.unseen import moments_of, unseen_bytes
from cdp.text.sizes import approx_duration, approx_size
from cdp.text.timestamps import utc
from cdp.volume.bookmarks import Bookmarks
from cdp.volume.limit_keeper import LimitKeeper
from cdp.volume.restores import Restores
from cdp.volume.thinning import Thinner
from cdp.volume.writable_images import Images
from cdpcore.base.errors import CdpError, Corruption, InvalidRequest
from cdpcore.index.view import View

log = logging.getLogger("cdp.retention")
NS = 10**9
SAMPLE_NS = NS                  # between two looks at the clocks
SAVE_NS = 3600 * NS             # what a restart of the machine may cost of elapsed time
RUN_NS = (NS, 60 * NS)          # between two runs: a fiftieth of what `all` says, within these
RUNS_A_SPAN = 50

Free = Callable[[int, bool], Freed]
"""(seq, dry_run): gives up what is before seq, in whole segments."""


@dataclass(frozen=True)
class Report:
    """Of what was done: last_run_ns by the wall clock, 0: never; freed_bytes by all runs; next_run_ns from now; None:
    there is no policy, or nothing carries it out (read-only); failed: why the last run did not do it."""

    last_run_ns: int
    freed_bytes: int
    next_run_ns: int | None
    failed: str


class PolicyKeeper:
    """Args: store; lock: the volume's; bookmarks, images, restores, views: as the volume has them; free: gives history
    up; thinner: of tiers; clock: never set."""

    def __init__(self, store: Store, lock: threading.RLock, bookmarks: Bookmarks, images: Images[Any],
                 restores: Restores, views: Mapping[View, Moment], free: Free, thinner: Thinner,
                 clock: Steady | None = None):
        self._store, self._lock, self._bookmarks, self._images = store, lock, bookmarks, images
        self._restores, self._views, self._free, self._clock = restores, views, free, clock or steady
        self._thinner = thinner
        self._policy: Policy | None = None
        self._limit = LimitKeeper(store)
        self._failed, self._damaged, self._closed = "", "", False
        self._due_ns = self._looked_ns = self._saved_ns = 0     # by the steady clock
        try:
            self._kept = retention_file.load(store.os, store.files)
            if self._kept.policy:
                self._policy = policies.parse(self._kept.policy, store.files.retention)
        except (Corruption, InvalidRequest) as error:
            self._kept, self._damaged = Kept(), f"{error.message}; {error.hint}"
            log.error("%s", self._damaged)
        if self._policy is not None and not store.read_only:
            self._due_ns = self._clock()[1] + self._period_ns()
            self._limit.look(self._policy, self._kept.first_seq)

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy | None:
        return self._policy

    @property
    def kept(self) -> Kept:
        return self._kept

    @property
    def damaged(self) -> str:
        """Why what was kept cannot be read; "": it can."""
        return self._damaged

    @property
    def admitted(self) -> Admitted:
        """What the limit does to writes."""
        return self._limit.report()

    def report(self) -> Report:
        due = self._policy is not None and not self._store.read_only
        return Report(self._kept.last_run_ns, self._kept.freed_bytes,
                      max(0, self._due_ns - self._clock()[1]) if due else None, self._failed)

    def ages(self, newest: Moment) -> Ages:
        """How old records are now."""
        kept = self._kept
        now = self._now(kept, newest.seq)
        return Ages(kept.samples, now, self._store.timeline.clock_steps(newest.seq))

    def _now(self, kept: Kept, seq: int) -> Sample:
        wall_ns, reading = self._store.os.now_ns(), self._clock()
        if not kept.samples:
            return Sample(seq, 0, wall_ns)
        last = kept.samples[-1]
        passed = passed_ns((kept.boot, kept.steady_ns), reading, wall_ns - last.wall_ns)
        return Sample(max(seq, last.seq), last.elapsed_ns + passed, wall_ns)

    def pins(self, policy: Policy | None = None) -> list[Pin]:
        """What needs a moment, by the moment. policy: as if that were the volume's; None: the volume's. Under the
        volume's lock."""
        policy = policy or self._policy
        ages = self.ages(self._newest())
        found = [pin for mark in self._bookmarks.all() if (pin := self._pin_of(mark, policy, ages)) is not None]
        for image in self._images.all():
            found.append(Pin("image", image.name, "the writable image shows it", image.at))
        for moment in list(self._views.values()):
            found.append(Pin("time image", f"of #{moment.seq}", "it is open", moment))
        undo_ns = policies.UNDO_NS if policy is None else policy.undo_ns
        last = next((r for r in reversed(self._restores.all()) if r.undoable), None)
        if last is not None:
            left = undo_ns - ages.age_ns(Moment(last.seq, last.ts_ns))
            if left > 0:
                found.append(Pin("undo", f"of restore #{last.seq}", "'cdp undo' would show it",
                                 self._store.timeline.moment(last.seq - 1), left))
        return sorted(found, key=lambda pin: (pin.at.seq, pin.kind, pin.owner))

    def _pin_of(self, mark: Any, policy: Policy | None, ages: Ages) -> Pin | None:
        """A bookmark as a pin: of its own --for and the policy's rule, what holds longer; None: it is none."""
        rule = policy.rule_of(mark.name) if policy is not None else None
        if rule is not None and rule.span_ns is None:
            return Pin("bookmark", mark.name, f"the policy says {rule.text!r}", mark.at)
        own = self._kept.pins.get(mark.name)
        age = ages.age_ns(mark.made)
        spans = [] if own is None else [(own, "it was made with --for")]
        if rule is not None and rule.span_ns is not None:
            spans.append((rule.span_ns, f"the policy says {rule.text!r}"))
        span_ns, why = max(spans, default=(0, ""))
        return Pin("bookmark", mark.name, why, mark.at, span_ns - age) if span_ns > age else None

    def holds(self) -> list[Hold]:
        """What a user who gives up history by hand was promised nevertheless: the floor, and bookmarks that are pins.
        Under the volume's lock."""
        found = [Hold(pin.at.seq, f"bookmark {pin.owner!r} is a pin: {pin.reason}")
                 for pin in self.pins() if pin.kind == "bookmark"]
        if self._policy is not None:
            history, ages = self.history()
            found.append(Hold(since(history, ages, self._policy.floor_ns),
                              f"the policy's floor is {policies.span_text(self._policy.floor_ns)}"))
        return found

    def plan(self, policy: Policy | None = None) -> tuple[Plan, StoreHistory, Ages]:
        """What the volume's policy, or another one, keeps now. Raises InvalidRequest where there is none."""
        policy = policy or self._policy
        if policy is None:
            raise InvalidRequest(f"{self._store.directory}: has no retention policy: everything is kept",
                                 "'cdp policy VOLUME set FILE' sets one")
        with self._lock:
            pins = self.pins(policy)
        history, ages = self.history()
        return plan(policy, history, pins, ages), history, ages

    def thinned_bytes(self, policy: Policy, plan: Plan) -> int | None:
        """Data of the log that no moment shows which a policy with tiers keeps; about; None: it has none. What whole
        segments take with them is not counted."""
        if len(policy.tiers) == 1:
            return None
        with self._lock:
            moments = self._moments(plan, plan.start_seq)
        return unseen_bytes(self._store, moments) if len(moments) > 1 else 0

    def _moments(self, plan: Plan, start_seq: int) -> list[int]:
        """What stays of the moments from start_seq on, up to the end of the list: the tiers' and pins', all bookmarks,
        so that each names a moment that is there, and what restores need. Under the volume's lock."""
        store, sealed = self._store, self._store.timeline.rows()[-1:]
        upto = min([plan.whole_seq, *(row.last_seq for row in sealed)]) if sealed else 0
        wanted = [seq for kept in plan.kept for seq in kept.seqs] + [pin.at.seq for pin in plan.pins]
        wanted += [mark.at.seq for mark in self._bookmarks.all()]
        restores = [(row.target_seq, row.seq) for row in store.restores]
        return moments_of(wanted, start_seq, upto, restores) if start_seq < upto else []

    def thins(self, plan: Plan, start_seq: int) -> int:
        """How many moments from start_seq on a round would take now."""
        with self._lock:
            planned = self._thinner.plan(self._moments(plan, start_seq)) if self._has_tiers() else None
            if planned is None:
                return 0
            return self._store.thinned.openable(start_seq, planned[0].upto) \
                - planned[0].openable(start_seq, planned[0].upto)

    def _has_tiers(self) -> bool:
        return self._policy is not None and len(self._policy.tiers) > 1 and self.cannot(self._policy) is None

    def _thin(self, plan: Plan, at_once: bool) -> None:
        """Begin a round where the policy has tiers; not at_once: where as many records as a segment has lie in what
        goes. Under the volume's lock."""
        store = self._store
        if not self._has_tiers():
            return
        planned = self._thinner.plan(self._moments(plan, store.timeline.start.seq))
        if planned is None:
            return
        thinned, records = planned
        rows = store.timeline.rows()
        if records and (at_once or records * len(rows) >= rows[-1].last_seq - rows[0].first_seq) and \
                self._thinner.begin(thinned):
            log.info("%s: the retention policy keeps %d moments up to #%d", store.directory, len(thinned.kept),
                     thinned.upto)

    def kept_by(self, at: Moment, following: Moment | None) -> list[str]:
        """What of the volume's policy keeps a moment, and for how long yet. following: the record after it."""
        policy = self._policy
        if policy is None:
            return []
        ages = self.ages(self._newest())
        found = []
        for tier in policy.tiers[:1]:
            left_ns = None if following is None or tier.span_ns is None else tier.span_ns - ages.age_ns(following)
            if left_ns is None or left_ns > 0:
                found.append(f"{tier.text!r}, " + (
                    f"for {approx_duration(left_ns) or '0 ms'} yet" if left_ns is not None else
                    "for ever" if tier.span_ns is None else "since it is the newest"))
        if not found and len(policy.tiers) > 1:
            found = [f"{kept.rule!r}" for kept in self.plan()[0].kept[1:] if at.seq in kept.seqs]
        with self._lock:
            pins = self.pins()
        for pin in pins:
            if pin.at.seq <= at.seq:
                left = "" if pin.left_ns is None else f", for {approx_duration(pin.left_ns) or '0 ms'} yet"
                found.append(f"{pin.kind} {pin.owner}, which holds #{pin.at.seq} and what came after{left}")
        return found

    def history(self) -> tuple[StoreHistory, Ages]:
        """The history as it is now, and how old its records are."""
        newest = self._newest()
        return StoreHistory(self._store, newest, self._store.os.now_ns()), self.ages(newest)

    def cannot(self, policy: Policy) -> str | None:
        """Why a policy cannot be carried out on this volume; None: it can."""
        if self._store.geometry.base == "parent":
            return "is a writable image, whose history is kept whole while it is there"
        if len(policy.tiers) > 1 and self._store.kind.log_before:
            return ("protects a disk in place, and of such a volume this release gives up the oldest history only: it "
                    f"cannot take out of the middle what {policy.tiers[1].text!r} does not keep")
        return None

    def _newest(self) -> Moment:
        seq, ts_ns = self._store.core.position()
        return Moment(seq, ts_ns) if seq else self._store.timeline.start

    # --- what is changed ----------------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy | None) -> None:
        """Durable at return; None: everything is kept. Carried out from the next run on. Raises InvalidRequest for what
        cannot be carried out."""
        if policy is not None and (why := self.cannot(policy)):
            raise InvalidRequest(f"{self._store.directory}: {why}", "write one rule, for instance 'all for 7d'; "
                                 "--simulate shows what more would keep")
        text = "" if policy is None else policies.to_toml(policy)
        self._save(self._sampled(self._kept).changed(policy=text))
        self._policy, self._damaged, self._failed = policy, "", ""
        self._due_ns = self._clock()[1] + (0 if policy is None else min(self._period_ns(), 10 * NS))
        self._limit.look(policy, self._kept.first_seq)

    def pin_bookmark(self, name: str, span_ns: int | None) -> None:
        """A bookmark of that name, which is to be made, is a pin for so long; None: it is none. Durable at return."""
        pins = {other: ns for other, ns in self._kept.pins.items() if other != name}
        if span_ns is not None:
            pins[name] = span_ns
        if pins != self._kept.pins:
            self._save(self._sampled(self._kept).changed(pins=pins))

    def _sampled(self, kept: Kept) -> Kept:
        """With a sample of now."""
        seq = self._store.core.position()[0]        # before the clocks: up to there, all was made before
        reading = self._clock()
        now = self._now(kept, seq)
        if kept.samples and kept.boot == reading[0] and not agree(kept.samples[-1], now):
            ahead = (now.wall_ns - kept.samples[-1].wall_ns) - (now.elapsed_ns - kept.samples[-1].elapsed_ns)
            log.warning("%s: the clock was set %s by %s, about at #%d: ages are counted by one that is never set",
                        self._store.directory, "forward" if ahead > 0 else "back", approx_duration(abs(ahead)), seq)
            if ahead > 0:       # back: cdp.store.clock_watch says so
                self._store.events.clock_stepped(seq, now.wall_ns - ahead, now.wall_ns)
        steps = self._store.timeline.clock_steps(seq)
        samples = joined(kept.samples, now, steps[-1].seq if steps else 0)
        return kept.changed(samples=tuple(samples), boot=reading[0], steady_ns=reading[1])

    def _save(self, kept: Kept) -> None:
        self._store.check_folder()
        retention_file.save(self._store.os, self._store.files, kept)
        self._kept, self._saved_ns = kept, kept.steady_ns

    # --- now and then -------------------------------------------------------------------------------------------------

    def upkeep(self) -> float | None:
        """From the maintenance thread: looks at the clocks, and applies the policy when it is time. Returns the seconds
        until it is to be called again; None: when it likes."""
        if self._closed or self._store.read_only or self._damaged or not (self._policy or self._kept.samples):
            return None
        at_ns = self._clock()[1]
        if at_ns - self._looked_ns >= SAMPLE_NS and self._lock.acquire(blocking=False):
            try:
                if self._closed:
                    return None
                self._looked_ns = at_ns
                before = len(self._kept.samples)
                self._kept = self._sampled(self._kept)
                if len(self._kept.samples) > max(2, before) or at_ns - self._saved_ns >= SAVE_NS:
                    self._save(self._kept)
                if self._policy is not None and (at_ns >= self._due_ns or self.admitted.writes != GO_ON):
                    self._due_ns = at_ns + self._period_ns()
                    self.run(at_once=False)
                self._limit.look(self._policy, self._kept.first_seq)
            except CdpError as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.error("%s: the retention policy is not applied: %s", self._store.directory, self._failed)
            finally:
                self._lock.release()
        return SAMPLE_NS / NS

    def run(self, dry_run: bool = False, at_once: bool = True) -> tuple[Plan, Freed]:
        """Apply the policy once: what was planned, and what was given up, or (dry_run) would be. at_once: thin also
        where it is little. Under the volume's lock."""
        found = self.plan()[0]
        freed = self._free(found.first_seq, dry_run)
        if dry_run:
            return found, freed
        self._thin(found, at_once)
        there = {mark.name for mark in self._bookmarks.all()}
        kept = self._kept.changed(last_run_ns=self._store.os.now_ns(), first_seq=found.first_seq,
                                  freed_bytes=self._kept.freed_bytes + freed.freed_bytes,
                                  pins={name: ns for name, ns in self._kept.pins.items() if name in there})
        self._failed = ""
        if freed.freed_bytes:
            log.info("%s: the retention policy gives up what is before #%d, %s: %s of log", self._store.directory,
                     freed.start.seq, utc(freed.start.ts_ns), approx_size(freed.freed_bytes))
            self._save(kept)
        self._kept = kept
        return found, freed

    def close(self) -> None:
        """The volume closes: how much time passed is not forgotten."""
        self._closed = True
        if self._policy is not None and not self._store.read_only and not self._damaged:
            try:
                self._save(self._sampled(self._kept))
            except CdpError as error:
                log.warning("%s", str(error))   # ages are behind by what passed since the last sample

    def _period_ns(self) -> int:
        span_ns = self._policy.tiers[0].span_ns if self._policy is not None else None
        least, most = RUN_NS
        return most if span_ns is None else min(most, max(least, span_ns // RUNS_A_SPAN))

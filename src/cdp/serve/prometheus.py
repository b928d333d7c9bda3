"""What a server says about its volumes, in the text formats of Prometheus and OpenMetrics.

Every scrape asks the volumes anew; nothing is kept between two of them. Names end with their unit; times are seconds
since 1970, so an age is `time() - NAME`. A volume that cannot answer has cdp_volume_up 0 and nothing else, and the
others are answered all the same. Any thread.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from cdp.serve.admin import NotOpen
from cdp.serve.held import Memory
from cdp.service.local import VolumeService
from cdp.views import CopyView, HistogramView, InfoView, MetricsView, SpaceView
from cdpcore.base.errors import CdpError

log = logging.getLogger("cdp.serve")

# Upper ends of the buckets of request times: 4 us to 17 s, by fours. Powers of two in ns are ends of the engine's own
# buckets too, so no event is counted on the wrong side.
LIMITS_NS = tuple(1 << bits for bits in range(12, 35, 2))


def _of_copy(copy: CopyView | None, what: str) -> float | None:
    if copy is None:
        return None
    if what == "made":
        return copy["made_ns"] / 1e9
    moment = copy["upto"] if what == "upto" else copy["missing"]
    return moment["ts_ns"] / 1e9 if moment else None


_GAUGES: tuple[tuple[str, str, Callable[[InfoView], float | None]], ...] = (
    ("cdp_volume_size_bytes", "Size of the volume.", lambda info: info["size_bytes"]),
    ("cdp_oldest_moment_timestamp_seconds", "The oldest moment that can be opened.",
     lambda info: info["window"]["oldest"]["ts_ns"] / 1e9),
    ("cdp_newest_moment_timestamp_seconds", "The newest record: the last write.",
     lambda info: info["window"]["newest"]["ts_ns"] / 1e9),
    ("cdp_newest_moment_seq", "Number of the newest record.", lambda info: info["window"]["newest"]["seq"]),
    ("cdp_clock_behind_seconds", "How far the clock is behind the newest record; 0 where it is right.",
     lambda info: info["window"]["clock_behind_ns"] / 1e9),
    ("cdp_bookmarks", "Bookmarks.", lambda info: info["bookmarks"]),
    ("cdp_images", "Writable images.", lambda info: info["images"]),
    ("cdp_restores", "Restores that the history holds.", lambda info: info["restores"]),
    ("cdp_index_runs", "Files of the index. What grows without end waits for a merge.",
     lambda info: info["stats"]["runs"]),
    ("cdp_index_bytes", "What the index takes.", lambda info: info["stats"]["index_bytes"]),
    ("cdp_log_segments", "Files of the log.", lambda info: info["stats"]["segments"]),
    ("cdp_log_failed_errno", "The errno that writing of the log failed with for good; 0: it did not.",
     lambda info: info["stats"]["failed_errno"]),
    ("cdp_writeback_left_bytes", "Of a restore, what is not on the protected disk yet.",
     lambda info: info["writeback"]["bytes_left"] if info["writeback"] else 0),
    ("cdp_freeing_left_bytes", "History that was given up and is not freed yet.",
     lambda info: info["freeing"]["bytes_left"] if info["freeing"] else 0),
    ("cdp_limit_state", "What the limit of the policy does to writes: 0 nothing, 1 slows them, 2 refuses them.",
     lambda info: ("go on", "slowed", "refused").index(info["retention"]["writes"])),
    ("cdp_device_state", "Free space on the device of the volume: 0 enough, 1 less than low_space_bytes, 2 none.",
     lambda info: ("ok", "low", "full").index(info["space"]["state"]) if info["space"] else None),
    ("cdp_retention_failed", "1 where the last run of the retention policy failed.",
     lambda info: 1 if info["retention"]["failed"] else 0),
    ("cdp_scrub_last_end_timestamp_seconds", "When a scrub ended last; not there where none did.",
     lambda info: info["scrub"]["last_ended_ns"] / 1e9 if info["scrub"]["last_ended_ns"] else None),
    ("cdp_scrub_problems", "What the last scrub, and the one under way, found damaged.",
     lambda info: info["scrub"]["n_problems"]),
    ("cdp_scrub_percent", "How far the scrub that is under way has come; not there where none is.",
     lambda info: info["scrub"]["percent"]),
    ("cdp_last_restore_timestamp_seconds", "When the last restore, or undo, was that the history holds.",
     lambda info: info["last_restore"]["at"]["ts_ns"] / 1e9 if info["last_restore"] else None),
    ("cdp_last_restore_duration_seconds", "How long that took; not there where another opening did it.",
     lambda info: info["last_restore"]["took_s"] if info["last_restore"] else None),
    ("cdp_backup_last_end_timestamp_seconds", "When a backup was last brought up to date; not there where none was.",
     lambda info: _of_copy(info["copies"]["backup"], "made")),
    ("cdp_backed_up_moment_timestamp_seconds", "The newest moment that it has.",
     lambda info: _of_copy(info["copies"]["backup"], "upto")),
    ("cdp_not_backed_up_since_timestamp_seconds", "The first moment that it lacks; not there where it has all.",
     lambda info: _of_copy(info["copies"]["backup"], "missing")),
    ("cdp_archive_last_end_timestamp_seconds", "When an archive was last brought up to date; not there where none was.",
     lambda info: _of_copy(info["copies"]["archive"], "made")),
    ("cdp_archived_moment_timestamp_seconds", "The newest moment that it has.",
     lambda info: _of_copy(info["copies"]["archive"], "upto")),
    ("cdp_not_archived_since_timestamp_seconds", "The first moment that it lacks; not there where it has all.",
     lambda info: _of_copy(info["copies"]["archive"], "missing")),
    ("cdp_capture_running", "1 while this server captures another program's disk into the volume.",
     lambda info: int(info["capture"]["running"]) if info["capture"] else None),
    ("cdp_capture_behind_bytes", "What a capture has still to take.",
     lambda info: info["capture"]["behind_bytes"] if info["capture"] else None),
    ("cdp_capture_behind_seconds", "How far a capture is behind its source.",
     lambda info: info["capture"]["behind_ns"] / 1e9
     if info["capture"] and info["capture"]["behind_ns"] is not None else None),
    ("cdp_standby_connected", "1 while the standby of the volume is connected; not there where it has none.",
     lambda info: int(info["standby"]["connected"]) if info["standby"] else None),
    ("cdp_standby_lag_records", "Records that the standby lacks.",
     lambda info: info["standby"]["lag_records"] if info["standby"] else None),
    ("cdp_standby_lag_bytes", "Bytes of the log that the standby lacks.",
     lambda info: info["standby"]["lag_bytes"] if info["standby"] else None),
    ("cdp_standby_lag_seconds", "The age of the oldest record that the standby lacks; 0 where it has all.",
     lambda info: info["standby"]["lag_ns"] / 1e9 if info["standby"] else None),
)

_COUNTERS: tuple[tuple[str, str, Callable[[InfoView], float]], ...] = (
    ("cdp_log_written_bytes", "Bytes written to the log since the volume was opened.",
     lambda info: info["stats"]["log_bytes_written"]),
    ("cdp_log_syncs", "Syncs of the log since the volume was opened.", lambda info: info["stats"]["syncs"]),
    ("cdp_damaged_blocks", "Blocks of the log or the base that did not match their checksum.",
     lambda info: info["stats"]["damaged_blocks"]),
    ("cdp_refused_reads", "Reads that failed because what they need is damaged.",
     lambda info: info["stats"]["refused_reads"]),
    ("cdp_limit_refused_writes", "Writes that the limit of the policy refused.",
     lambda info: info["retention"]["refused"]),
    ("cdp_limit_slowed_writes", "Writes that the limit of the policy slowed down.",
     lambda info: info["retention"]["slowed"]),
    ("cdp_retention_freed_bytes", "History that the retention policy freed.",
     lambda info: info["retention"]["freed_bytes"]),
)

_SPACE: tuple[tuple[str, str, Callable[[SpaceView], float | None]], ...] = (
    ("cdp_history_bytes", "History, as a limit counts it.", lambda space: space["history_bytes"]),
    ("cdp_history_limit_bytes", "The limit of the retention policy.", lambda space: space["limit_bytes"]),
    ("cdp_history_growth_bytes_per_day", "How fast the history grows.", lambda space: space["bytes_a_day"]),
    ("cdp_history_days_to_limit", "Days until the history meets its limit, at this rate.",
     lambda space: space["days_to_limit"]),
    ("cdp_device_free_bytes", "Free space on the device of the volume.", lambda space: space["device_free_bytes"]),
    ("cdp_device_size_bytes", "Size of the device of the volume.", lambda space: space["device_bytes"]),
    ("cdp_device_days_to_full", "Days until that device is full, at this rate.", lambda space: space["days_to_full"]),
)

_PARTS = ("log", "index", "base", "images", "catalog", "reserve", "other")


class VolumesCollector:
    """A collector over served volumes, by name; not_open: those that are not served, yet; memory: of the server's NBD
    connections, where it has any."""

    def __init__(self, services: Mapping[str, VolumeService], not_open: NotOpen = list, memory: Memory | None = None):
        self._services, self._not_open, self._memory = services, not_open, memory

    def describe(self) -> Iterable[Metric]:
        """None: a registry would otherwise collect once to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        answers = _Answers()
        if self._memory:
            answers.of_memory(self._memory())
        for one in self._not_open():
            answers.up(one["name"], False)
        for name, service in self._services.items():
            try:
                service.check_folder()
                info, metrics, space = service.info(), service.metrics(buckets=True), service.space()
                now = service.explain("now")
                clients = len(service.clients())
                flushed = now["last_flush"] or info["window"]["oldest"]
                waiting = None if now["flush_durable"] else service.explain(f"#{flushed['seq']}")["next"]
            except (CdpError, OSError) as error:
                log.warning("%s: no metrics: %s", name, error)
                answers.up(name, False)
                continue
            answers.up(name, not info["stats"]["failed_errno"])
            answers.of_info(name, info)
            answers.of_flush(name, flushed["ts_ns"], waiting and waiting["ts_ns"])
            answers.of_space(name, space)
            answers.of_metrics(name, metrics)
            answers.gauge("cdp_clients", "NBD connections to the volume and its moments.", name, clients)
        return answers.families.values()


class _Answers:
    """Families of one scrape, by name."""

    def __init__(self) -> None:
        self.families: dict[str, Any] = {}

    def _family(self, kind: type[Metric], name: str, text: str, labels: Sequence[str]) -> Any:
        if name not in self.families:
            self.families[name] = kind(name, text, labels=labels)  # type: ignore[call-arg]
        return self.families[name]

    def gauge(self, name: str, text: str, volume: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self._family(GaugeMetricFamily, name, text, ("volume", *labels)).add_metric(
                (volume, *labels.values()), value)

    def counter(self, name: str, text: str, volume: str, value: float, **labels: str) -> None:
        self._family(CounterMetricFamily, name, text, ("volume", *labels)).add_metric((volume, *labels.values()), value)

    def of_memory(self, memory: Mapping[str, int]) -> None:
        for kind, name, text, count in (
                (GaugeMetricFamily, "cdp_connection_memory_limit_bytes",
                 "The bound of the memory that NBD connections share for large requests.", memory["limit_bytes"]),
                (GaugeMetricFamily, "cdp_connection_memory_bytes", "What they have of it.", memory["used_bytes"]),
                (GaugeMetricFamily, "cdp_connections_waiting", "NBD connections that wait for their turn at it.",
                 memory["waiting"]),
                (CounterMetricFamily, "cdp_connection_memory_waits", "How often one had to wait for it.",
                 memory["waits"]),
                (CounterMetricFamily, "cdp_connections_cut", "NBD connections that were cut off: others waited.",
                 memory["cuts"])):
            self._family(kind, name, text, ()).add_metric((), count)

    def up(self, volume: str, well: bool) -> None:
        self.gauge("cdp_volume_up", "0 where the volume is not open, cannot be asked, or its log failed.", volume, well)

    def of_info(self, volume: str, info: InfoView) -> None:
        self._family(InfoMetricFamily, "cdp_volume", "A served volume.", ("volume",)).add_metric(
            (volume,), {"uuid": info["uuid"], "path": info["path"], "disk": info["disk"] or ""})
        for name, text, value_of in _GAUGES:
            self.gauge(name, text, volume, value_of(info))
        raised = {alert["kind"] for alert in info["alerts"]}
        for kind, count in info["alert_counts"].items():
            self.gauge("cdp_alert", "1 where the server has raised this kind of alert.", volume, kind in raised,
                       kind=kind)
            self.counter("cdp_alerts", "How often the server raised this kind of alert.", volume, count, kind=kind)
        for name, text, count_of in _COUNTERS:
            self.counter(name, text, volume, count_of(info))

    def of_flush(self, volume: str, flushed_ns: int, waiting_since_ns: int | None) -> None:
        self.gauge("cdp_flushed_moment_timestamp_seconds", "The newest moment that a client flushed.", volume,
                   flushed_ns / 1e9)
        self.gauge("cdp_unflushed_since_timestamp_seconds",
                   "The oldest write that no flush came after; not there where all is flushed.", volume,
                   None if waiting_since_ns is None else waiting_since_ns / 1e9)

    def of_space(self, volume: str, space: SpaceView) -> None:
        for part in _PARTS:
            self.gauge("cdp_space_bytes", "What the volume takes on the device, by what.", volume,
                       space[f"{part}_bytes"], part=part)  # type: ignore[literal-required]
        for name, text, value_of in _SPACE:
            self.gauge(name, text, volume, value_of(space))

    def of_metrics(self, volume: str, metrics: MetricsView) -> None:
        requests = self._family(HistogramMetricFamily, "cdp_request_duration_seconds",
                                "Requests of NBD clients and of the API, from their receipt to their reply.",
                                ("volume", "request"))
        for name, histogram in metrics["requests"].items():
            requests.add_metric((volume, name), _buckets(histogram), histogram["total_ns"] / 1e9)
        stages = self._family(SummaryMetricFamily, "cdp_stage_duration_seconds",
                              "Where the time of requests goes (docs/architecture.md).", ("volume", "stage"))
        for name, histogram in metrics["stages"].items():
            stages.add_metric((volume, name), histogram["count"], histogram["total_ns"] / 1e9)
        for name, count in metrics["request_bytes"].items():
            self.counter("cdp_request_bytes", "Bytes that clients read and wrote.", volume, count, direction=name)
        for name, source in metrics["sources"].items():
            self.counter("cdp_read_source_bytes", "Bytes read, by what they came from.", volume, source["bytes"],
                         source=name)
        for name, depth in metrics["queues"].items():
            self.gauge("cdp_queue", "What waits, or is under way, now.", volume, depth, queue=name)


def _buckets(histogram: HistogramView) -> list[tuple[str, float]]:
    """Cumulative, with their upper ends in seconds."""
    counts = histogram["buckets"]
    found = [(repr(limit / 1e9), float(sum(count for upper, count in counts if upper <= limit)))
             for limit in LIMITS_NS]
    return [*found, ("+Inf", float(histogram["count"]))]


class Exposition:
    """What /metrics answers. Args as of VolumesCollector."""

    def __init__(self, services: Mapping[str, VolumeService], not_open: NotOpen = list, memory: Memory | None = None):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(VolumesCollector(services, not_open, memory))

    def encode(self, accept: str = "") -> tuple[bytes, str]:
        """The text in the format that the header Accept asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

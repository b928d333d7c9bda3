"""What came between two looks at the metrics of a volume: rates, quantiles, and how busy each stage was.

Pure: any thread.
"""
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict

from cdp.views import HistogramView, MetricsView

Buckets = Sequence[Sequence[int]]


class RateView(TypedDict):
    """per_second: events; busy: their time in a second of time, so 1.0 is one thread all the time, or one of 8 requests
    under way for an eighth of it; bytes_per_second: where it is known. Quantiles in ns of what came in the interval; 0
    where nothing did."""

    per_second: float
    busy: float
    p50_ns: int
    p99_ns: int
    p999_ns: int
    bytes_per_second: NotRequired[float]


class SourceRateView(TypedDict):
    """share: of all bytes that were read in the interval."""

    per_second: float
    bytes_per_second: float
    share: float


class RatesView(TypedDict):
    """Of one interval. log_bytes: what the log takes at its end; queues: as they are then."""

    interval_ns: int
    requests: dict[str, RateView]
    stages: dict[str, RateView]
    sources: dict[str, SourceRateView]
    queues: dict[str, int]
    log_bytes: int
    log_bytes_per_second: float


class _Change(NamedTuple):
    events: int
    total_ns: int
    buckets: list[tuple[int, int]]


def quantile(buckets: Buckets, per_mille: int) -> int:
    """The upper end of the bucket in which the event lies that so many of 1000 do not exceed; 0 where there is none."""
    wanted = -(-sum(count for _, count in buckets) * per_mille // 1000)
    for upper, count in buckets:
        wanted -= count
        if wanted <= 0 < count:
            return upper
    return 0


def between(first: MetricsView, last: MetricsView) -> RatesView:
    """Both with buckets. Where `last` is of another opening of the volume, as if that had begun with `first`."""
    interval_ns = max(last["at_ns"] - first["at_ns"], 1)
    seconds = interval_ns / 1e9

    def rate(before: HistogramView, after: HistogramView) -> RateView:
        change = _change(before, after)
        p50_ns, p99_ns, p999_ns = (min(quantile(change.buckets, q), after["max_ns"]) for q in (500, 990, 999))
        return RateView(per_second=change.events / seconds, busy=change.total_ns / interval_ns, p50_ns=p50_ns,
                        p99_ns=p99_ns, p999_ns=p999_ns)

    def grown(before: int, after: int) -> float:
        return (after - before if after >= before else after) / seconds

    requests = {name: rate(first["requests"][name], last["requests"][name]) for name in last["requests"]}
    for name, of in (("read", "read"), ("write", "written")):
        requests[name]["bytes_per_second"] = grown(first["request_bytes"][of], last["request_bytes"][of])
    sources = {name: SourceRateView(per_second=grown(first["sources"][name]["count"], one["count"]),
                                    bytes_per_second=grown(first["sources"][name]["bytes"], one["bytes"]), share=0.0)
               for name, one in last["sources"].items()}
    read = sum(one["bytes_per_second"] for one in sources.values())
    for one in sources.values():
        one["share"] = one["bytes_per_second"] / read if read else 0.0
    return RatesView(
        interval_ns=interval_ns, requests=requests,
        stages={name: rate(first["stages"][name], last["stages"][name]) for name in last["stages"]}, sources=sources,
        queues=last["queues"], log_bytes=last["log_bytes"],
        log_bytes_per_second=grown(first["log_bytes_written"], last["log_bytes_written"]))


def _change(before: HistogramView, after: HistogramView) -> _Change:
    if after["count"] < before["count"]:
        return _Change(after["count"], after["total_ns"], [(upper, count) for upper, count in after["buckets"]])
    had = {upper: count for upper, count in before["buckets"]}
    buckets = [(upper, count - had.get(upper, 0)) for upper, count in after["buckets"] if count > had.get(upper, 0)]
    return _Change(sum(count for _, count in buckets), max(after["total_ns"] - before["total_ns"], 0), buckets)

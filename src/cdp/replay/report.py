"""The report of a replay: as JSON with stable fields, and as lines for people."""

from __future__ import annotations

from typing import Any

from cdp.replay.engine import Outcome, Replay, counts_by_kind
from cdp.text.sizes import approx_size
from cdp.text.timestamps import utc
from cdp.trace.info import TraceInfo
from cdp.trace.reader import Trace

VERSION = 1


def build(
    replay: Replay, trace: Trace, info: TraceInfo | None, targets: list[dict[str, Any]], speed: str
) -> dict[str, Any]:
    """All that is known at the end. docs/replay.md tells what each field means."""
    out = replay.outcome
    requests = counts_by_kind(replay.disks)
    seconds = max(out.elapsed_ns, 1) / 1e9
    epoch = trace.epoch_ns
    total = sum(r["count"] for r in requests.values())
    return {
        "version": VERSION,
        "traces": [source.path for source in trace.sources],
        "format": trace.format,
        "clock": trace.clock,
        "trace_start_utc": None if epoch is None or out.first_ns is None else utc(epoch + out.first_ns),
        "trace_span_seconds": ((out.last_ns or 0) - (out.first_ns or 0)) / 1e9,
        "ended": out.ended,
        "error": None if out.error is None else str(out.error),
        "error_where": out.where or None,
        "records": out.records,
        "records_in_trace": None if info is None else info.records,
        "malformed": trace.tally.bad,
        "first_malformed": trace.tally.first_bad or None,
        "left_out_of_trace": trace.left_out,
        "not_issued": sum(disk.shape.unnamed for disk in replay.disks),
        "wrapped": sum(disk.shape.wrapped for disk in replay.disks),
        "split": sum(disk.shape.split for disk in replay.disks),
        "speed": speed,
        "elapsed_seconds": round(seconds, 6),
        "late_ms_max": max((disk.driver.late_ns for disk in replay.disks), default=0) / 1e6 if replay.speed else None,
        "requests": requests,
        "requests_per_second": round(total / seconds, 1),
        "write_bytes_per_second": round(requests["write"]["bytes"] / seconds),
        "read_bytes_per_second": round(requests["read"]["bytes"] / seconds),
        "overwritten_share": None if info is None else round(info.overwritten_share, 6),
        "written_footprint_bytes": None if info is None else info.written_footprint_bytes,
        "disks": targets,
        "verify": None,
    }


def unfinished(outcome: Outcome) -> bool:
    return outcome.ended in ("error", "interrupted")


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    r = report
    first = r["traces"][0] + (f" and {len(r['traces']) - 1} more" if len(r["traces"]) > 1 else "")
    of = f" of {r['records_in_trace']:,}" if r["records_in_trace"] not in (None, r["records"]) else ""
    out = [f"{first} ({r['format']}): {r['records']:,}{of} records in {r['elapsed_seconds']:.2f} s, speed {r['speed']}"]
    if r["ended"] != "end":
        out.append(
            {
                "limit": "  ended at the limit",
                "interrupted": "  stopped by the user",
                "error": f"  ended by an error{' at ' + r['error_where'] if r['error_where'] else ''}",
            }[r["ended"]]
        )
    head = ("kind", "requests", "data", "mean", "p50", "p90", "p99", "p99.9", "max")
    rows = []
    for kind, c in r["requests"].items():
        if c["count"]:
            rows.append(
                (
                    kind,
                    f"{c['count']:,}",
                    approx_size(c["bytes"]) if kind != "flush" else "",
                    *(_time(c[key]) for key in ("mean_ns", "p50_ns", "p90_ns", "p99_ns", "p99.9_ns", "max_ns")),
                )
            )
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    out += [
        "",
        *(
            "  "
            + "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, *rows]
        ),
        "",
    ]
    facts = [
        (
            "rate",
            (
                f"{r['requests_per_second']:,.0f} requests/s, {approx_size(r['write_bytes_per_second'])}/s written, "
                f"{approx_size(r['read_bytes_per_second'])}/s read"
            ),
        )
    ]
    if r["overwritten_share"] is not None:
        facts.append(
            (
                "overwritten",
                (
                    f"{r['overwritten_share']:.1%} of the written bytes; {approx_size(r['written_footprint_bytes'])} "
                    "of the disk written"
                ),
            )
        )
    if r["clock"] != "none":
        facts.append(
            (
                "trace time",
                f"{r['trace_span_seconds']:,.3f} s"
                + (f" from {r['trace_start_utc']}" if r["trace_start_utc"] else "")
                + (f", at most {r['late_ms_max']:,.1f} ms late" if r["late_ms_max"] is not None else ""),
            )
        )
    for count, what in (
        (r["not_issued"], "requests that the trace does not name were left out"),
        (r["wrapped"], "requests were folded into the volume"),
        (r["split"], "long requests were taken apart"),
        (r["malformed"], f"malformed records were passed over; the first: {r['first_malformed']}"),
    ):
        if count:
            facts.append(("note", f"{count:,} {what}"))
    facts += [("left out", line) for line in r["left_out_of_trace"]]
    for d in r["disks"]:
        if "volume" not in d:
            facts.append(("server", f"{d['uri']}, {approx_size(d['size_bytes'])}"))
            continue
        facts.append(
            (
                "volume",
                f"{d['volume']}, {approx_size(d['size_bytes'])}" + (f" ({d['device']})" if len(r["disks"]) > 1 else ""),
            )
        )
        if d.get("log_bytes_per_write") is not None:
            facts.append(
                (
                    "",
                    (
                        f"log {approx_size(d['log_bytes'])}, {d['log_bytes_per_write']:,.0f} bytes a write; index "
                        f"{approx_size(d['index_bytes'])}, {d['index_bytes_per_write']:,.0f} bytes a write"
                    ),
                )
            )
        first, last = d["bookmarks"][:2]
        moved = f"from {first} (#{d['start_seq']}) to {last} (#{d['end_seq']}), {d['changes']:,} changes"
        facts.append(("", moved))
    width = max(len(name) for name, _ in facts)
    out += [f"  {name.ljust(width)}  {text}" for name, text in facts]
    for v in r["verify"] or []:
        out += verified_lines(v)
    return out


def verified_lines(v: dict[str, Any]) -> list[str]:
    """What a verification found."""
    part = "" if v["share_modelled"] == 1 else f" (a {v['share_modelled']:.3%} sample of the disk)"
    text = (
        f"{v['moments']:,} moments opened "
        f"({v['flush_moments']:,} of {v['flush_moments_known']:,} right after a flush), "
        f"{approx_size(v['bytes_compared'])} compared{part}; "
        f"{v['changes_in_volume']:,} of {v['changes_in_trace']:,} changes in the history"
    )
    not_replayed = [f"    not replayed: {line}" for line in v["left_out_of_trace"]]
    if v["ok"]:
        return [f"  verified     {v['volume']}: every moment is right: {text}", *not_replayed]
    return [
        f"  WRONG        {v['volume']}: {v['mismatch_count']:,} differences: {text}",
        *(f"    {line}" for line in v["mismatches"]),
        *not_replayed,
    ]


def _time(ns: int) -> str:
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)):
        if ns >= scale:
            value = ns / scale
            return f"{value:.{0 if value >= 100 else 1}f} {unit}"
    return f"{ns} ns"

"""What `cdp trace info` prints for people."""
from __future__ import annotations

import io
import shutil
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdp.trace.info import TraceInfo
from cdp.trace.plot import size_text

_DEVICES_SHOWN = 40


def amount(size_bytes: int) -> str:
    """Bytes for people: three significant digits in a binary unit."""
    for unit, shift in (("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            value = size_bytes / (1 << shift)
            return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{size_bytes} B"


def text(info: TraceInfo) -> str:
    """The report as lines, as wide as the terminal that standard output is, or else 160 columns."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    lines = io.StringIO()
    out = Console(file=lines, highlight=False, width=shutil.get_terminal_size().columns if terminal else 160)
    head = Table.grid(padding=(0, 2))
    for name, value in _facts(info):
        head.add_row(name, Text(value))
    out.print(head)
    kinds = Table(box=None, header_style="", pad_edge=False)
    for name in ("kind", "records", "bytes"):
        kinds.add_column(name, justify="left" if name == "kind" else "right")
    for kind, count in info.counts.items():
        if count:
            kinds.add_row(kind, f"{count:,}", amount(info.bytes[kind]))
    out.print()
    out.print(kinds)
    _sizes(info, out)
    _devices(info, out)
    return lines.getvalue()


def _facts(info: TraceInfo) -> list[tuple[str, str]]:
    files = info.files[0] + (f" and {len(info.files) - 1} more" if len(info.files) > 1 else "")
    facts = [("trace", files), ("format", info.format)]
    if info.clock == "none":
        facts.append(("time", "none in this format: an order only"))
    else:
        facts.append(("span", f"{info.span_ns / 1e9:,.3f} s" + (f" from {info.start_utc}" if info.start_utc else "")))
    facts.append(("records", f"{info.records:,} of {info.events:,} events" if info.events != info.records
                  else f"{info.records:,}"))
    about = "" if info.footprint_exact else "about "
    written = amount(info.written_footprint_bytes)
    facts.append(("footprint", f"{about}{amount(info.footprint_bytes)}, {written} of it written"
                  + (f" (a sample: one address in {info.footprint_one_in})" if about else "")))
    share = f"{info.overwritten_share:.1%} of the written bytes ({amount(info.overwritten_bytes)})"
    facts.append(("overwritten", about + share))
    flags = ", ".join(f"{name} {count:,}" for name, count in info.flags.items() if count)
    if flags:
        facts.append(("flags", flags))
    if info.out_of_order:
        facts.append(("out of order", f"{info.out_of_order:,} records are earlier than one before them"))
    if info.bad:
        facts.append(("malformed", f"{info.bad:,} passed over; the first: {info.first_bad}"))
    return facts


def _sizes(info: TraceInfo, out: Console) -> None:
    if not info.sizes:
        return
    table = Table(box=None, header_style="", pad_edge=False)
    for name in ("size up to", "reads", "writes"):
        table.add_column(name, justify="right")
    table.add_column("")
    most = max(bucket.reads + bucket.writes for bucket in info.sizes)
    for bucket in info.sizes:
        both = bucket.reads + bucket.writes
        table.add_row(size_text(bucket.to_bytes), f"{bucket.reads:,}", f"{bucket.writes:,}",
                      "#" * -(-30 * both // most))
    out.print()
    out.print(table)


def _devices(info: TraceInfo, out: Console) -> None:
    table = Table(box=None, header_style="", pad_edge=False)
    for name in ("device", "reads", "writes", "read", "written", "footprint", "disk size"):
        table.add_column(name, justify="left" if name == "device" else "right", no_wrap=True)
    busiest = sorted(info.devices, key=lambda device: device.records, reverse=True)
    for d in busiest[:_DEVICES_SHOWN]:
        table.add_row(Text(d.name), f"{d.reads:,}", f"{d.writes:,}", amount(d.read_bytes),
                      amount(d.written_bytes), amount(d.footprint_bytes), amount(d.size_bytes))
    out.print()
    out.print(table)
    if len(busiest) > _DEVICES_SHOWN:
        out.print(f"and {len(busiest) - _DEVICES_SHOWN:,} less busy devices (--json lists all)")

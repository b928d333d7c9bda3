"""What `cdp trace info` prints for people."""
from __future__ import annotations

from collections.abc import Sequence

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
    """The report as lines."""
    kinds = [("kind", "records", "bytes")]
    kinds += [(kind, f"{count:,}", amount(info.bytes[kind])) for kind, count in info.counts.items() if count]
    tables = [_table(_facts(info), "<<"), _table(kinds, "<>>"), _sizes(info), _devices(info)]
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in tables if lines)


def _table(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Lines of columns, two blanks apart. alignment: < or > for each."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(alignment))]
    columns = list(zip(alignment, widths, strict=True))
    return ["  ".join(f"{cell:{side}{width}}" for cell, (side, width) in zip(row, columns, strict=True)).rstrip()
            for row in rows]


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
    for entry in info.stages:
        counts = ", ".join(f"{name} {count:,}" for name, count in entry.events.items() if count)
        facts.append(("stages", f"device {entry.device}: {counts or 'none'}, {entry.merged:,} merged"
                      + (f", {entry.passthrough:,} passthrough" if entry.passthrough else "")
                      + f"; {entry.stage} is read"))
    facts += [("left out", line) for line in info.left_out]
    if info.out_of_order:
        facts.append(("out of order", f"{info.out_of_order:,} records are earlier than one before them"))
    if info.bad:
        facts.append(("malformed", f"{info.bad:,} passed over; the first: {info.first_bad}"))
    return facts


def _sizes(info: TraceInfo) -> list[str]:
    if not info.sizes:
        return []
    most = max(bucket.reads + bucket.writes for bucket in info.sizes)
    rows = [("size up to", "reads", "writes", "")]
    rows += [(size_text(bucket.to_bytes), f"{bucket.reads:,}", f"{bucket.writes:,}",
              "#" * -(-30 * (bucket.reads + bucket.writes) // most)) for bucket in info.sizes]
    return _table(rows, ">>><")


def _devices(info: TraceInfo) -> list[str]:
    rows = [("device", "reads", "writes", "read", "written", "footprint", "disk size")]
    busiest = sorted(info.devices, key=lambda device: device.records, reverse=True)
    rows += [(d.name, f"{d.reads:,}", f"{d.writes:,}", amount(d.read_bytes), amount(d.written_bytes),
              amount(d.footprint_bytes), amount(d.size_bytes)) for d in busiest[:_DEVICES_SHOWN]]
    lines = _table(rows, "<>>>>>>")
    if len(busiest) > _DEVICES_SHOWN:
        lines.append(f"and {len(busiest) - _DEVICES_SHOWN:,} less busy devices (--json lists all)")
    return lines

"""What `cdp top` shows: one line a volume, and all of one volume. Pure: text of rates."""
from collections.abc import Sequence
from typing import NamedTuple

from cdp.cli.base import table
from cdp.service.rates import RatesView, RateView
from cdp.text.sizes import approx_ns, approx_size

BAR_CELLS = 20

WHAT = {
    "receive": "from the socket", "parked": "waits for a device", "reply": "to the socket",
    "append": "into the log's buffer", "publish": "into the index", "log_write": "log to the device",
    "log_sync": "log made durable", "commit": "a flush waits for the log", "look_up": "where the data is",
    "file_read": "from a file", "old_read": "what a write overwrites", "disk_write": "to the protected disk",
    "disk_sync": "disk made durable",
}


class Row(NamedTuple):
    """A volume; rates: None while it does not answer, or was only just found."""

    name: str
    rates: RatesView | None
    state: str = ""


def rate(per_second: float) -> str:
    """`0`, `0.5`, `12`, `12,345`."""
    return f"{per_second:.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"


def _bytes(per_second: float) -> str:
    return f"{approx_size(round(per_second))}/s"


def summary(rows: Sequence[Row]) -> list[str]:
    """A head, and a line a volume."""
    head = ["VOLUME", "READ/s", "MB", "p50", "p99", "WRITE/s", "MB", "p50", "p99", "FLUSH/s", "p50", "p99", "LOG",
            "WAITING"]
    lines = []
    for row in rows:
        if row.rates is None:
            lines.append([row.name, row.state, *[""] * (len(head) - 2)])
            continue
        cells = [row.name]
        for name in ("read", "write", "flush"):
            one = row.rates["requests"][name]
            cells.append(rate(one["per_second"]))
            if name != "flush":
                cells.append(f"{one.get('bytes_per_second', 0.0) / 1e6:.1f}")
            cells += [approx_ns(one["p50_ns"]), approx_ns(one["p99_ns"])]
        queues = row.rates["queues"]
        cells += [_bytes(row.rates["log_bytes_per_second"]), str(queues["parked"] + queues["frames_waiting"])]
        lines.append(cells)
    return table(head, lines)


def details(row: Row) -> list[str]:
    """All of one volume, for the lines below."""
    rates = row.rates
    if rates is None:
        return [f"{row.name}: {row.state}"]
    busiest = max((one["busy"] for one in rates["stages"].values()), default=0.0)
    stages = [[name, rate(one["per_second"]), approx_ns(one["p50_ns"]), approx_ns(one["p99_ns"]),
               f"{one['busy']:.0%}", _bar(one, busiest), WHAT.get(name, "")]
              for name, one in rates["stages"].items() if one["per_second"]]
    sources = [[name, rate(one["per_second"]), _bytes(one["bytes_per_second"]), f"{one['share']:.0%}"]
               for name, one in rates["sources"].items() if one["per_second"]]
    queues = rates["queues"]
    head = (f"{row.name}: log {approx_size(rates['log_bytes'])}, {_bytes(rates['log_bytes_per_second'])}; frames "
            f"{queues['frames_in_flight']} in flight, {queues['frames_waiting']} not written; requests "
            f"{queues['parked']} parked; workers {queues['workers_busy']} busy, {queues['workers_waiting']} calls "
            f"wait; {approx_size(queues['pending_bytes'])} for the disk")
    lines = [head, "",
             *(table(["STAGE", "PER s", "p50", "p99", "BUSY", "", ""], stages) if stages else ["no requests"])]
    if sources:
        lines += ["", *table(["READ FROM", "PER s", "BYTES", "SHARE"], sources)]
    return lines


def _bar(one: RateView, busiest: float) -> str:
    return "#" * round(one["busy"] / busiest * BAR_CELLS) if busiest else ""

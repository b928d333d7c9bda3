"""What `cdp activity` prints: a line a number over time, and a map of time and place. Pure."""
import math
from collections.abc import Sequence

from cdp.text.sizes import approx_duration, approx_ns, approx_size
from cdp.text.timestamps import local
from cdp.views import ActivityView

BARS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
LABEL = 12
MAP_ROWS = 16


def lines(volume: str, found: ActivityView, columns: int) -> list[str]:
    n = len(found["writes"])
    per = -(-n // columns)      # intervals a column
    end_ns = found["begin_ns"] + n * found["by_ns"]
    written, over = sum(found["written_bytes"]), sum(found["overwritten_bytes"])
    each = f"{per} of {_length(found['by_ns'])}" if per > 1 else _length(found["by_ns"])
    out = [f"{volume}: a column is {each}",
           f"  from      {local(found['begin_ns'])[:19]} to {local(end_ns)[:19]}",
           f"  written   {approx_size(written)} in {sum(found['writes']):,} writes" + (
               f", {over / written:.0%} of it over data" if written else "")]
    for name, sizes, counts, what in (("trimmed", found["trimmed_bytes"], found["trims"], "trims"),
                                      ("zeroed", found["zeroed_bytes"], found["zeroes"], "zeroes")):
        if sum(counts):
            out.append(f"  {name:<8}  {approx_size(sum(sizes))} in {sum(counts):,} {what}")
    out.append(f"  flushes   {sum(found['flushes']):,}")
    if found["resolution_ns"] > found["by_ns"]:
        out.append(f"  finest    {_length(found['resolution_ns'])}: what is known together is divided evenly")
    out.append("")
    for name, numbers in (("written", found["written_bytes"]), ("overwritten", found["overwritten_bytes"]),
                          ("trimmed", found["trimmed_bytes"]), ("zeroed", found["zeroed_bytes"]),
                          ("flushes", found["flushes"])):
        if any(numbers) or name == "written":
            out.append(f"{name:<{LABEL}}{_bars(_summed(numbers, per))}".rstrip())
    if found["places"] is not None and any(map(any, found["places"])):
        out += ["", *_map(found, per)]
    out.append(f"{'':<{LABEL}}{_axis(found, per, -(-n // per))}")
    return out


def _length(ns: int) -> str:
    return approx_duration(ns) or approx_ns(ns)


def _summed(numbers: Sequence[int], per: int) -> list[int]:
    return [sum(numbers[at:at + per]) for at in range(0, len(numbers), per)]


def _sign(signs: str, number: float, most: float) -> str:
    """The blank for nothing, the last sign for the most; between them by the logarithm, over four decades."""
    if number <= 0:
        return signs[0]
    share = 1 + math.log10(number / most) / 4
    return signs[max(1, min(len(signs) - 1, 1 + int(share * (len(signs) - 1))))]


def _bars(numbers: list[int]) -> str:
    most = max(numbers, default=0) or 1
    return "".join(_sign(BARS, number, most) for number in numbers)


def _map(found: ActivityView, per: int) -> list[str]:
    places = found["places"] or []
    n_places = len(places[0])
    fold = -(-n_places // MAP_ROWS)     # places a row
    rows = []
    for first in range(0, n_places, fold):
        rows.append(_summed([sum(interval[first:first + fold]) for interval in places], per))
    most = max(max(row) for row in rows) or 1
    return [f"{approx_size(at * fold * found['place_bytes']) if at else '0':<{LABEL}}"
            f"{''.join(_sign(SHADES, number, most) for number in row)}".rstrip() for at, row in enumerate(rows)]


def _axis(found: ActivityView, per: int, columns: int) -> str:
    """Times below the columns, the first and then every fifteenth or so."""
    span_ns = columns * per * found["by_ns"]
    cut = slice(5, 16) if span_ns > 86400 * 10**9 else slice(11, 19) if span_ns <= 600 * 10**9 else slice(11, 16)
    out = ""
    for column in range(0, columns, 15):
        text = local(found["begin_ns"] + column * per * found["by_ns"])[cut].replace("T", " ")
        if column + len(text) <= columns + 4:
            out = out.ljust(column) + text
    return out

"""Sizes and durations as people write them: `64MiB`, `10G`, `250ms`, `1s`; and back.

Invariants
  1. What is parsed is exact: a text that does not name a whole number of bytes or milliseconds is refused, not
     rounded.
  2. format_size and format_duration_ms give texts that the parsers read back to the same number.

K, M, G, T, P (with or without `iB`) count in 1024s, as qemu-img, fio and lvcreate do; kB, MB, GB, TB, PB in 1000s.
Pure functions: any thread.
"""
import re
from fractions import Fraction

from cdpcore.base.errors import InvalidRequest

_BINARY = {letter: 1024**power for power, letter in enumerate("KMGTP", start=1)}
_DECIMAL = {letter: 1000**power for power, letter in enumerate("KMGTP", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(iB|i|B)?|B)?", re.IGNORECASE | re.ASCII)

_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", re.ASCII)


def parse_size(text: str, what: str = "size") -> int:
    """Bytes of `10G`, `64MiB`, `1.5T`, `4096`. `what` names the value in the message. Raises InvalidRequest."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise InvalidRequest(f"{what} {text!r} is not a size",
                             "write bytes, or a number with K, M, G or T, such as 64MiB or 10G")
    number, letter, tail = found.groups()
    scale = 1
    if letter:
        table = _DECIMAL if tail in ("B", "b") else _BINARY
        scale = table[letter.upper()]
    value = Fraction(number) * scale
    if value.denominator != 1:
        raise InvalidRequest(f"{what} {text!r} is not a whole number of bytes", "write it in a smaller unit")
    return int(value)


def format_size(size_bytes: int) -> str:
    """Exact text: the largest binary unit that divides the number (`64MiB`, `1536KiB`, `513B`)."""
    for letter in "PTGMK":
        scale = _BINARY[letter]
        if size_bytes >= scale and size_bytes % scale == 0:
            return f"{size_bytes // scale}{letter}iB"
    return f"{size_bytes}B"


def approx_size(size_bytes: int) -> str:
    """For people's eyes: at most one digit after the point (`1.5 GiB`, `513 B`)."""
    for letter in "PTGMK":
        scale = _BINARY[letter]
        if size_bytes >= scale:
            value = size_bytes / scale
            return f"{value:.1f} {letter}iB" if value < 100 and size_bytes % scale else f"{value:.0f} {letter}iB"
    return f"{size_bytes} B"


def parse_duration_ms(text: str, what: str = "duration") -> int:
    """Milliseconds of `250ms`, `1s`, `1.5s`, `2m` (or `2min`), `1h`, `1d`. Raises InvalidRequest."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise InvalidRequest(f"{what} {text!r} is not a duration",
                             "write a number with ms, s, m, h or d, such as 250ms or 1s")
    value = Fraction(found[1]) * _DURATION_MS[found[2]]
    if value.denominator != 1:
        raise InvalidRequest(f"{what} {text!r} is not a whole number of milliseconds", "write it in ms")
    return int(value)


def format_duration_ms(duration_ms: int) -> str:
    """Exact text: the largest unit that divides the number (`1s`, `1500ms`, `2m`, `0ms`)."""
    for unit in ("d", "h", "m", "s"):
        scale = _DURATION_MS[unit]
        if duration_ms and duration_ms % scale == 0:
            return f"{duration_ms // scale}{unit}"
    return f"{duration_ms}ms"


def approx_age(age_ns: int) -> str:
    """For people's eyes: `now`, `350 ms ago`, `12 s ago`, `5 min 3 s ago`, `2 h 10 min ago`, `3 d ago`, `in 5 s`."""
    text = approx_duration(abs(age_ns))
    if not text:
        return "now"
    return f"{text} ago" if age_ns >= 0 else f"in {text}"


def approx_duration(duration_ns: int) -> str:
    """`350 ms`, `12 s`, `5 min 3 s`, `2 h 10 min`, `3 d`; empty below a millisecond."""
    seconds, rest_ns = divmod(duration_ns, 1_000_000_000)
    if seconds == 0:
        millis = rest_ns // 1_000_000
        return f"{millis} ms" if millis else ""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    if seconds < 86400:
        return f"{seconds // 3600} h" + (f" {seconds % 3600 // 60} min" if seconds % 3600 // 60 else "")
    return f"{seconds // 86400} d" + (f" {seconds % 86400 // 3600} h" if seconds % 86400 // 3600 else "")


def approx_ns(ns: float) -> str:
    """Three digits: `850 ns`, `12.3 us`, `4.56 ms`, `1.20 s`; `-` for nothing."""
    if not ns:
        return "-"
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            value = ns / scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{ns:.0f} ns"


def approx_seconds(seconds: int) -> str:
    """For people's eyes: `3 d`, `90 min`, `45 s`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

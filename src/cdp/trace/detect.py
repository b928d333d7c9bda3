"""Which format a trace is of, recognized by its content; names of files mean nothing.

Binary formats: magics first, then whether the first records make sense (vscsi, oracleGeneral have no magic). Text: the
formats with a characteristic first line first, then every other parser is given the first lines and the one that
understands most of them wins. Where none understands a line, the one that gets farthest is taken, if it gets three
fields far and no other does: reading then says precisely what is wrong with the first line.

Where several understand the same lines, or one reads what looks like bytes as sectors, what the numbers mean decides
or the user does (cdp.trace.plausible).
"""
from __future__ import annotations

import re

import numpy as np

from cdp.trace import complaints
from cdp.trace.fixed import LAYOUTS
from cdp.trace.formats import Format, candidates
from cdp.trace.model import RECORD
from cdp.trace.plausible import Reading
from cdp.trace.stream import HEAD_BYTES, TraceFile
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import parse as traceparse

_BOM = b"\xef\xbb\xbf"
_PROBE_LINES = 200
_PROBE_RECORDS = 1000
_DMLOG_MAGIC = (0x6A736677736872).to_bytes(8, "little")
_BLKTRACE_MAGICS = (b"\x07\x74\x61\x65", b"\x65\x61\x74\x07")
_BLKREPLAY_START = re.compile(rb"^start ;", re.MULTILINE)
_TEXT_BYTES = bytes([9, 10, 13, *range(32, 127), *range(128, 256)])


class NoTrace(InvalidRequest):
    """Of none of the formats."""


def detect(file: TraceFile, wanted: str | None = None, *, among_others: bool = False) -> Format:
    """The format of a file, among those that `wanted` allows (a name, a family, or None for all).

    Reads at most HEAD_BYTES of content. A wanted format that leaves no choice is returned unseen, so that reading it
    gives the precise error; not where the file came among others from an archive, which holds more than traces.
    Raises NoTrace for an unknown file, InvalidRequest for an empty one and where several formats fit, NotFound,
    Unavailable.
    """
    formats = candidates(wanted)
    head = file.head(HEAD_BYTES)
    if not head:
        raise complaints.empty(file.path, "a trace")
    if len(formats) == 1 and not among_others:
        return formats[0]
    try:
        found = find(head, formats)
        if found and not wanted:
            check_unit(found, head.removeprefix(_BOM))
    except Ambiguous as error:
        raise InvalidRequest(f"{file.path}: {error.message}", error.hint) from None
    if found is None:
        raise NoTrace(f"{file.path}: {_what_it_looks_like(head)}", "'cdp trace formats' lists what is known, --format "
                      "chooses, --columns describes any other table")
    return found


def find(head: bytes, formats: tuple[Format, ...]) -> Format | None:
    """The format of a file that begins with `head` (all of it, if shorter than HEAD_BYTES), or None."""
    head = head.removeprefix(_BOM)
    binary = bool(head[:4096].translate(None, _TEXT_BYTES))
    if binary:
        return next((f for f in formats if _is_binary(f, head)), None)
    for format in formats:
        if format.signatures and format.begins(head):
            return format
        if format.name == "blkreplay" and _BLKREPLAY_START.search(head):
            return format
    return _probe(head, [f for f in formats if f.shape == "text" and f.probed])


def _is_binary(format: Format, head: bytes) -> bool:
    if format.shape == "dmlog":
        return head.startswith(_DMLOG_MAGIC)
    if format.shape == "blktrace":
        return head.startswith(_BLKTRACE_MAGICS)
    if format.shape != "fixed":
        return False
    layout, rules, _ = LAYOUTS[format.name]
    raw = np.frombuffer(head, layout, min(len(head) // layout.itemsize, _PROBE_RECORDS))
    good = np.ones(len(raw), np.bool_)
    for _, rule in rules:
        good &= rule(raw)
    if format.name == "oracle-general":  # nothing in it is characteristic: times in order, next access -1 or ahead
        good[1:] &= raw["time"][1:] >= raw["time"][:-1]
        good &= (raw["next"] < 1 << 48) & (raw["next"] != 0) & (raw["size"] < 1 << 30) & (raw["size"] > 0)
    return bool(len(raw) and np.count_nonzero(~good) * 10 <= len(raw))


def _probe(head: bytes, formats: list[Format]) -> Format | None:
    sample = _first_lines(head)
    scores, read = {}, {}
    for format in formats:
        parser, read[format.name] = _read(format, sample)
        scores[format.name] = (parser.events, parser.bad()[4])
    most = max((events for events, _ in scores.values()), default=0)
    if most > 0:
        return _weighed([read[f.name] for f in formats if scores[f.name][0] == most])
    farthest = sorted(formats, key=lambda f: scores[f.name][1], reverse=True)
    if scores[farthest[0].name][1] >= 3 and (
        len(farthest) == 1 or scores[farthest[0].name][1] > scores[farthest[1].name][1]
    ):
        return farthest[0]
    return None


def _first_lines(head: bytes) -> bytes:
    lines = head.splitlines(keepends=True)
    if len(head) >= HEAD_BYTES and len(lines) > 1:
        lines.pop()  # cut by us
    return b"".join(lines[:_PROBE_LINES])


def _read(format: Format, sample: bytes) -> tuple[traceparse.TextParser, Reading]:
    parser = traceparse.TextParser(format.text, traceparse.DeviceTable(), skip_bad=True, stages=~0 & 0xFFFFFFFF)
    out = np.empty(_PROBE_LINES + 1, RECORD)
    _, _, made = parser.run(sample, True, out.view(np.uint8))
    decimals = any(b"." in line.split(None, 1)[0] for line in sample.splitlines() if line[:1].isdigit())
    return parser, Reading(format, out[:made], parser.devices, decimals)


class Ambiguous(InvalidRequest):
    """More than one format fits, or one of which the numbers look like those of another unit."""


def _weighed(fitting: list[Reading]) -> Format:
    """The one whose numbers make sense. Raises Ambiguous where that is not exactly one of several."""
    if len(fitting) == 1:
        return fitting[0].format
    sound = [reading for reading in fitting if not reading.is_excluded()]
    if len(sound) == 1:
        return sound[0].format
    raise Ambiguous(f"more than one format fits: {' and '.join(map(str, sound or fitting))}", "say which with --format")


def check_unit(format: Format, head: bytes) -> None:
    """Raises Ambiguous where bytes seem to stand in columns that the format counts in sectors."""
    if format.shape != "text" or format.unit_bytes == 1:
        return
    _, reading = _read(format, _first_lines(head))
    if reading.may_be_bytes():
        raise Ambiguous(f"offsets and sizes are multiples of 512, bytes rather than the sectors of {reading}",
                        f"--format {format.name} if they are sectors, else describe them with --columns")


def _what_it_looks_like(head: bytes) -> str:
    if head[:4096].translate(None, _TEXT_BYTES):
        return f"binary data of no known trace format (begins with {head[:8].hex(' ')})"
    first = head.lstrip().split(b"\n", 1)[0].rstrip(b"\r")
    return f"text of no known trace format (begins with {complaints.quoted(first, 40)})"

"""Frames and records of the log as NumPy arrays: what the timeline searches, and what the history is read as.

The timeline imports this when it looks for a record, not before: NumPy is half of the time that a short command takes.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cdp.moments.records import FUA, META, MORE, RECORD, has_range
from cdpcore.log.picked import descriptors
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os

FRAME = np.dtype([("first_seq", "<u8"), ("first_ts_ns", "<u8"), ("flush_seq", "<u8"),
                  ("offset_blocks", "<u4"), ("n_desc", "<u4")])
DESC = np.dtype([("ts_ns", "<u8"), ("start", "<u8"), ("sectors", "<u8"), ("data_sector", "<u4"), ("crc", "<u4"),
                 ("kind", "<u2"), ("flags", "<u2"), ("data_bytes", "<u4")])
BATCH_RECORDS = 50_000      # parts of records, in as many frames as that takes


def frames_of(directory: Any) -> Any:
    """The FRAME array that a directory is."""
    return np.frombuffer(directory, FRAME)


def batches(frames: Any, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """[lo, hi) in pieces of some BATCH_RECORDS, at least a frame each."""
    done = np.cumsum(frames["n_desc"][lo:hi], dtype="<u8")
    at = lo
    while at < hi:
        before = int(done[at - lo - 1]) if at > lo else 0
        end = max(at + 1, lo + int(find(done, before + BATCH_RECORDS, side="right")))
        yield at, end
        at = end


def find(column: Any, value: int, side: Any = "left") -> Any:
    """np.searchsorted; a plain int would be compared as float64, which cannot distinguish nanoseconds of
    today."""
    return np.searchsorted(column, np.uint64(value), side=side)


def frames_with(frames: Any, seqs: Any) -> list[int]:
    """The frames that have the records `seqs`, or the first parts of them; ascending, each once."""
    first = frames["first_seq"]
    at = np.searchsorted(first, seqs, side="left")
    begins = first[np.minimum(at, len(first) - 1)] == seqs
    found: list[int] = np.unique(np.maximum(at - ~begins, 0)).tolist()
    return found


def of_segment(os: Os, segment: SegmentFile, seqs: Any) -> Any:
    """The RECORDs with these seqs (ascending) that a sealed segment has."""
    wanted: Any = np.ascontiguousarray(seqs)
    return group(*unpacked(*descriptors(os, segment, wanted)))


def among(records: Any, seqs: Any) -> Any:
    """Those of a RECORD array whose seq is one of `seqs`, which are ascending."""
    at = np.searchsorted(seqs, records["seq"])
    return records[seqs[np.minimum(at, len(seqs) - 1)] == records["seq"]]


def put_together(found: list[Any]) -> Any:
    """Some RECORD arrays as one, ascending, each record once."""
    records = np.concatenate([np.empty(0, RECORD), *found])
    return records[np.unique(records["seq"], return_index=True)[1]]


def group(seqs: Any, descs: Any) -> Any:
    """Records from descriptors: the parts of one record (same seq, adjacent in the volume) become one row."""
    if not len(seqs):
        return np.empty(0, RECORD)
    first = np.flatnonzero(np.concatenate(([True], seqs[1:] != seqs[:-1])))
    out = np.empty(len(first), RECORD)
    out["seq"] = seqs[first]
    out["ts_ns"] = descs["ts_ns"][first]
    out["kind"] = np.maximum.reduceat(descs["kind"], first)     # the edges of a zero or trim are writes
    out["flags"] = descs["flags"][first] & (FUA | META)
    place = has_range(descs["kind"][first])
    out["offset"] = np.where(place, descs["start"][first] * 512, 0)
    out["length"] = np.add.reduceat(descs["sectors"], first) * 512
    return out


def descriptors_of(first_seq: int, raw: Any) -> tuple[Any, Any]:
    """seq of each descriptor of a frame, and the descriptors."""
    descs = np.frombuffer(raw, DESC)
    ends = (descs["flags"] & MORE) == 0
    return first_seq + np.concatenate(([0], np.cumsum(ends)[:-1])).astype("<u8"), descs


def unpacked(seqs: Any, descs: Any) -> tuple[Any, Any]:
    """The same of many frames, from bytes of both."""
    return np.frombuffer(seqs, "<u8"), np.frombuffer(descs, DESC)


def joined(found: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Seqs and descriptors, one after the other."""
    if not found:
        return np.empty(0, "<u8"), np.empty(0, DESC)
    return np.concatenate([seqs for seqs, _ in found]), np.concatenate([descs for _, descs in found])

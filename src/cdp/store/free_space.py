"""Whether a volume's device has space for the first write: a segment is allocated as a whole.

Any thread.
"""
import os
import shutil

from cdp.settings import KEYS, SEGMENT_STEP_BYTES
from cdp.store.layout import RESERVE_BYTES
from cdp.text.sizes import approx_size, format_size

SEGMENTS_WANTED = 4         # with fewer on a device a volume could not go on for long


def shortage(path: str | os.PathLike[str], segment_bytes: int, create: str = "make the volume anew") -> str | None:
    """What is to be said before the first write is refused, or None: it has room. `create`: how segments become
    smaller."""
    free_bytes = shutil.disk_usage(path).free
    if free_bytes >= segment_bytes + RESERVE_BYTES:
        return None
    what = (f"{path}: {approx_size(free_bytes)} free, less than the {approx_size(segment_bytes)} of a log segment and "
            "the reserve: the next write that needs one will be refused (no space)")
    fits = max(KEYS["segment_bytes"].low, free_bytes // SEGMENTS_WANTED // SEGMENT_STEP_BYTES * SEGMENT_STEP_BYTES)
    if fits >= segment_bytes or free_bytes < fits + RESERVE_BYTES:
        return f"{what}; free space"
    return f"{what}; free space, or {create} with --set segment_bytes={format_size(fits)}"

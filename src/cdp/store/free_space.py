"""Whether a volume's device has space for the first write: for the first step of a log segment, and the reserve.

Any thread.
"""
import os
import shutil

from cdp.store.layout import RESERVE_BYTES
from cdp.text.sizes import approx_size

STEP_BYTES = 1 << 20        # as cdpcore.log.pace has it


def shortage(path: str | os.PathLike[str]) -> str | None:
    """What is to be said before the first write is refused, or None: it has room."""
    free_bytes = shutil.disk_usage(path).free
    if free_bytes >= STEP_BYTES + RESERVE_BYTES:
        return None
    return f"{path}: {approx_size(free_bytes)} free: writes will be refused (no space); free space"

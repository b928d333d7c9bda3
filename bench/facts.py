"""What a figure depends on and what it is kept with: commit, machine, file system, versions, load; and the line of
JSON."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdp.bench.machine import cpu_model, file_system, kernel, load, memory_bytes

ROOT = Path(__file__).resolve().parent.parent


def facts(directory: Path) -> dict[str, Any]:
    """Of this run; `directory` is where its files lie."""
    import cdp
    from cdpcore.base.checksum import crc32c_names

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "version": cdp.__version__,
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "kernel": kernel(),
        "python": platform.python_version(),
        "crc32c": crc32c_names()[0],
        "file_system": file_system(directory),
        "load_1m": load(),
    }


def commit() -> str | None:
    """The commit of this tree, with -dirty where files differ from it; None outside of a repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def tool_version(command: list[str]) -> str | None:
    """First line that a tool says about its version; None where it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def append_line(path: Path | None, line: dict[str, Any]) -> None:
    """Append one result to a file of JSON lines; None: nowhere."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")

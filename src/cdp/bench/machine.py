"""What a figure depends on and that names nobody: processor, memory, kernel, file system."""
import os
import platform
from pathlib import Path


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def kernel() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def file_system(directory: Path) -> str:
    """Type and mount options of the file system that `directory` is on, e.g. "ext4 rw,relatime"."""
    best = ("", "unknown")
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, kind, options = line.split()[:4]
            mount = mount.replace("\\040", " ")
            inside = str(directory.resolve()) + "/"
            if inside.startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
                best = (mount, f"{kind} {options}")
    except OSError:
        pass
    return best[1]


def load() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 2)

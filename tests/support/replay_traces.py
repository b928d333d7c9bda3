"""Made traces for the tests of replay: fio iologs and blkparse text, from lists of requests."""

import random

SECTOR = 512


def fio(path, requests, step_us=1000):
    """requests: (operation, offset, length) in bytes; sync without them. Any byte offset."""
    lines = ["fio version 3 iolog", "0 disk add", "0 disk open"]
    for i, (operation, *place) in enumerate(requests):
        lines.append(" ".join([str(i * step_us), "disk", operation, *map(str, place or (0, 0))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def blkparse(path, requests, device="8,0", step_ns=1_000_000):
    """requests: (rwbs, first sector, sectors)."""
    lines = []
    for i, (rwbs, start, sectors) in enumerate(requests):
        at = i * step_ns
        lines.append(
            f"  {device}    0  {i + 1:7d} {at // 10**9:5d}.{at % 10**9:09d}  77  D  {rwbs} {start} + {sectors} [test]"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def some(seed, count, size_bytes, aligned=False):
    """Random writes, reads, trims and syncs in a disk of that size, many of them overlapping."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        operation = rng.choices(("write", "read", "trim", "sync"), (70, 10, 12, 8))[0]
        if operation == "sync":
            found.append(("sync",))
            continue
        unit = SECTOR if aligned else rng.choice((1, SECTOR, 4096))
        length = max(unit, rng.choice((unit, 4096, 16384, 100_000)) // unit * unit)
        offset = rng.randrange(0, (size_bytes - length) // unit + 1) * unit
        found.append((operation, offset, length))
    return found

"""A write log as dm-log-writes and QEMU make it, written step by step: what the capture tests follow."""
import struct

FLUSH, FUA, DISCARD, MARK, META = 1, 2, 4, 8, 16
MAGIC = 0x6A736677736872


class WriteLog:
    """Appends to the log at `path`; nothing is counted before count()."""

    def __init__(self, path, sector=512):
        self.path, self.sector = path, sector
        self.entries = 0
        self.at = sector
        self.expected = []  # (kind, offset, length, fua) of the records that a volume gets, flushes and marks left out
        self.marks = []  # (text, how many of those come before it)
        path.touch()

    def put(self, position, data):
        with open(self.path, "r+b") as file:
            file.seek(position)
            file.write(data)

    def count(self, entries=None):
        """The super block says so many, or as many as there are."""
        head = struct.pack("<QQQI", MAGIC, 1, self.entries if entries is None else entries, self.sector)
        self.put(0, head.ljust(self.sector, b"\0"))

    def entry(self, offset, length, flags, data=b"", data_len=0, body=b""):
        """Append one entry; gives where it lies and its bytes."""
        head = struct.pack("<QQQQ", offset // self.sector, length // self.sector, flags, data_len) + body
        raw = head.ljust(self.sector, b"\0") + data
        where, self.at, self.entries = self.at, self.at + len(raw), self.entries + 1
        self.put(where, raw)
        return where, raw

    def write(self, offset, data, flags=0):
        self.expected.append((1, offset, len(data), bool(flags & FUA)))
        return self.entry(offset, len(data), flags, data)

    def discard(self, offset, length):
        self.expected.append((3, offset, length, False))
        return self.entry(offset, length, DISCARD)

    def flush(self):
        return self.entry(0, 0, FLUSH)

    def mark(self, text):
        self.marks.append((text, len(self.expected)))
        return self.entry(0, 0, MARK, data_len=len(text) + 1, body=text.encode() + b"\0")


def changes(volume):
    """(kind, offset, length, fua) of a volume's writes, zeroes and trims."""
    return [(int(r["kind"]), int(r["offset"]), int(r["length"]), bool(r["flags"] & 2)) for r in volume.records()
            if r["kind"] <= 3]

"""The checksums of ext4 and its journal: CRC-32C without the inversions at both ends."""
from cdpcore.base.checksum import crc32c

ALL = 0xFFFFFFFF


def raw_crc(seed: int, *parts: bytes) -> int:
    """CRC-32C of parts one after the other, as ext4_chksum() of the kernel."""
    crc = seed ^ ALL
    for part in parts:
        crc = crc32c(part, crc)
    return crc ^ ALL

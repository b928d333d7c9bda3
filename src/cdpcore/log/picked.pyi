from typing_extensions import Buffer

from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os

def descriptors(os: Os, segment: SegmentFile, seqs: Buffer) -> tuple[bytes, bytes]: ...

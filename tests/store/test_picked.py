"""A few records of a sealed segment: what picking them reads is what reading all of its frames has of them."""
from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import cdp
from cdp.moments.records import MORE
from cdp.store import record_arrays as arrays
from cdpcore.base.errors import Corruption
from cdpcore.log.picked import descriptors
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import PosixOs

pytestmark = pytest.mark.plain

MIB, BLOCK = 1 << 20, 4096


@pytest.fixture
def segment(tmp_path: Path):
    rnd = random.Random(1)
    with cdp.create(tmp_path / "v", size=16 * MIB) as v:
        for i in range(400):
            if i % 10 == 0:
                v.flush()
            if i % 40 == 7:     # more than a frame holds
                v.pwrite(rnd.randbytes(6 * MIB), rnd.randrange(16) * 512 * 1024)
            elif i % 3 == 0:    # a part in the middle and two edges
                v.trim(100_000, rnd.randrange(15 * MIB))
            else:
                v.pwrite(rnd.randbytes(512), rnd.randrange(15 * MIB))
    with closing(SegmentFile(PosixOs(), str(tmp_path / "v/log/0000000001.log"), None, 1)) as opened:
        yield opened


def test_picked_and_read(segment: SegmentFile):
    frames = arrays.frames_of(segment.directory())
    seqs, descs = arrays.unpacked(*segment.record_batch(int(frames["offset_blocks"][0]) * BLOCK, 0, len(frames)))
    goes_on = [i for i, e in enumerate(np.cumsum(frames["n_desc"])[:-1]) if descs["flags"][e - 1] & MORE]
    assert goes_on and len(set(seqs.tolist())) < len(seqs)      # records of several parts, some of them in two frames
    rnd, last = random.Random(2), int(seqs[-1])
    every = list(range(last + 6))       # also some that it does not have
    for chosen in ([], every, *([seq] for seq in every), *(rnd.sample(every, n) for n in range(2, 100))):
        wanted = np.array(sorted(chosen), "<u8")
        got, found = arrays.unpacked(*descriptors(PosixOs(), segment, wanted))
        mine = np.isin(seqs, wanted)
        assert got.tolist() == seqs[mine].tolist()
        assert found.tobytes() == descs[mine].tobytes()


def test_a_damaged_frame(segment: SegmentFile):
    at = int(arrays.frames_of(segment.directory())["offset_blocks"][0]) * BLOCK
    with open(segment.path, "r+b") as file:
        file.seek(at + 100)
        byte = file.read(1)
        file.seek(at + 100)
        file.write(bytes([byte[0] ^ 1]))
    last = np.array([segment.last_seq], "<u8")
    assert len(descriptors(PosixOs(), segment, last)[0]) >= 8
    with pytest.raises(Corruption, match=f"no valid frame at byte {at}"):
        descriptors(PosixOs(), segment, np.array([1], "<u8"))

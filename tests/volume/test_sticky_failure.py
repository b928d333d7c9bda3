"""After a failed write or sync nothing is acknowledged, and it is said what had failed: the log, or the disk."""
import errno

import pytest
from support.simcatalog import on
from support.sizes import KIB, tuning

from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, Unavailable
from cdpcore.system.os import SimOs

SMALL = tuning(128 * KIB, 1024 * KIB, slots=4)


def opened(kind):
    sim = SimOs(3)
    if kind == "before":
        with sim.open("/disk", write=True, create=True) as file:
            file.pwrite(bytes(2048 * KIB), 0)
            file.datasync()
        sim.sync_dir("/")
    creation.create("/v", 2048 * KIB, SMALL, os=sim, catalog=on(sim), disk="/disk" if kind == "before" else "")
    return sim, Volume("/v", _tuning=SMALL, _os=sim, _catalog=on(sim))


@pytest.mark.parametrize("kind, part, call, said", [
    ("after", "/v/log", "pwrite", "writing the log"), ("after", "/v/log", "datasync", "making the log durable"),
    ("before", "/v/log", "datasync", "making the log durable"), ("before", "/disk", "pwrite", "writing"),
    ("before", "/disk", "datasync", "making the disk durable"),
    ("before", "/v/disk.state", "pwrite", "noting the state of the disk"),
])
def test_what_failed_is_kept(kind, part, call, said):
    sim, volume = opened(kind)
    volume.pwrite(b"1" * 4096, 0)
    volume.flush()
    volume.pwrite(b"2" * 4096, 0)
    sim.fail(call, part=part, times=1, error=errno.EIO)
    with pytest.raises(Unavailable, match=said):
        volume.flush()
    for again in (volume.flush, lambda: volume.pwrite(b"3" * 4096, 0)):
        with pytest.raises(Unavailable, match=f"{said}.* failed earlier; close and open .*: Input/output error"):
            again()
    with pytest.raises(Unavailable, match=said):
        volume.close()
    assert said in volume.unclean
    volume = Volume("/v", _tuning=SMALL, _os=sim, _catalog=on(sim))
    assert volume.pread(1, 0) in (b"1", b"2")
    volume.close()
    assert volume.unclean == ""


def test_past_the_end_in_bytes():
    _, volume = opened("after")
    with pytest.raises(InvalidRequest) as refused:
        volume.pread(512, 2048 * KIB)
    assert str(refused.value) == ("a request reaches past the end of the volume, which has 2097152 bytes: "
                                  "bytes 2097152 to 2097664")
    volume.close()

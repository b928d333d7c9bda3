"""After a failed write or sync nothing is acknowledged, and it is said what had failed: the log, or the disk."""
import errno

import pytest
from support import interop
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


@pytest.mark.parametrize("kind", ["after", "before"])
def test_it_is_reported_when_it_happens(kind, tmp_path):
    """Once, by the volume itself: nobody asks again."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    how = f"disk={str(tmp_path / 'disk')!r}" if kind == "before" else "size=1 << 20"
    done = interop.run(*interop.cdp_argv()[:1], "-c", f"""
import cdp, logging, os, resource, time
from cdp.cli.info import info_lines
from cdp.service.local import VolumeService
logging.basicConfig(format="%(message)s")
volume = cdp.create({str(tmp_path / 'v')!r}, {how})
volume.pwrite(b"1" * 4096, 0)
volume.flush()
volume._store.log.failure() == "" or print("failed before")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    volume.pwrite(b"2" * 4096, 512 << 10, fua=True)
except cdp.CdpError:
    until = time.monotonic() + 30
    while not volume._store.maintainer._watch_failure.__self__._reported and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.2)
    print(volume.stats()["failed_errno"])
    print(*info_lines("v", VolumeService(volume).info()), sep="\\n", flush=True)
os._exit(0)
""")
    assert done.stdout.startswith(f"{errno.EFBIG}\n") and "failed     File too large: no write is taken" in done.stdout
    reports = [line for line in done.stderr.splitlines() if "no write is taken any more" in line]
    assert len(reports) == 1 and "failed earlier; close and open the volume to recover: File too large" in reports[0]


def test_past_the_end_in_bytes():
    _, volume = opened("after")
    with pytest.raises(InvalidRequest) as refused:
        volume.pread(512, 2048 * KIB)
    assert str(refused.value) == ("a request reaches past the end of the volume, which has 2097152 bytes: "
                                  "bytes 2097152 to 2097664")
    volume.close()

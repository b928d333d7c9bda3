"""The volumes of a server are opened several at a time: all of them, or none."""
import threading

import pytest

import cdp
from cdp.serve.luns import OPENED_AT_A_TIME, Luns
from cdpcore.base.errors import Busy


@pytest.fixture
def paths(tmp_path):
    found = [str(tmp_path / f"v{i}") for i in range(5)]
    for path in found:
        cdp.create(path, size=1 << 20).close()
    return found


def test_several_are_opened_at_a_time(paths):
    """Each waits until all have begun: one after the other, that would never end."""
    assert len(paths) <= OPENED_AT_A_TIME
    begun = threading.Barrier(len(paths), timeout=60)

    def opened(lun):
        begun.wait()
        return cdp.open(lun.path)

    luns = Luns("local", paths, opened)
    assert [volume.path for volume in luns.start()] == paths
    luns.close()


def test_the_first_that_fails_is_reported_and_none_is_left_open(paths):
    with cdp.open(paths[1]), cdp.open(paths[3]):
        luns = Luns("local", paths, lambda lun: cdp.open(lun.path))
        with pytest.raises(Busy, match="v1"):
            luns.start()
        luns.close()
    for path in paths:
        cdp.open(path).close()

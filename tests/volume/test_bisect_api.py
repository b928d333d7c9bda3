"""cdp.bisect() against the only right answer, with tests that write, cannot tell, and raise."""
import random

import pytest

import cdp

SIZE = 1 << 20


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "v", size=SIZE) as made:
        yield made


@pytest.mark.parametrize("seed", range(4))
def test_the_first_bad_record(volume, seed):
    rnd = random.Random(seed)
    written, bad, seen = rnd.randrange(3, 60), 0, []
    for n in range(1, 61):
        if n != written and rnd.random() < 0.3:
            volume.flush()      # no record where nothing was written
        else:
            volume.pwrite(b"bad" if n == written else b"xxx", 4096 if n == written else 8192)
            bad = volume.window().newest.seq if n == written else bad
    newest = volume.window().newest.seq

    def test(image):
        held = image.pread(3, 4096)
        image.pwrite(b"bad", 4096)      # which nobody else must see
        seen.append(held)
        return held != b"bad"

    found = cdp.bisect(volume, "#1", "now", test)
    assert found.bad.seq == bad and found.good.seq < bad and found.unknown == ()
    assert found.probes == len(seen) <= 12
    assert volume.images() == [] and volume.pread(3, 4096) == b"bad"
    assert volume.window().newest.seq <= newest + 1     # making an image flushes


def test_what_cannot_be_told(volume):
    for n in range(9):
        volume.pwrite(bytes([n]) * 512, 0)
    found = cdp.bisect(volume, "#1", "now", lambda image: None if image.pread(1, 0)[0] in (4, 5) else
                       image.pread(1, 0)[0] < 5)
    assert (found.good.seq, found.bad.seq) == (4, 7)
    assert [moment.seq for moment in found.unknown] == [5, 6]
    for good, bad, says in (("now", "#1", "exchange"), ("#1", "#2", "is good"), ("#8", "#9", "is bad")):
        with pytest.raises(cdp.InvalidRequest) as error:
            cdp.bisect(volume, good, bad, lambda image: image.pread(1, 0)[0] < 5)
        assert says in f"{error.value.message} {error.value.hint}"

    def broken(image):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cdp.bisect(volume, "#1", "now", broken)
    assert volume.images() == []

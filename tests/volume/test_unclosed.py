"""A volume or time image that nobody closed: closed when nothing refers to it any more, with a ResourceWarning, as
files are."""
import gc
import subprocess
import sys
import threading
import warnings

import pytest

import cdp

SIZE = 1 << 20


def made(tmp_path, kind):
    if kind == "before":
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(SIZE))
        return cdp.create(tmp_path / "v", disk=disk)
    return cdp.create(tmp_path / "v", size=SIZE)


@pytest.mark.parametrize("kind", ["after", "before"])
def test_a_dropped_volume_is_closed(tmp_path, kind):
    held = [made(tmp_path, kind)]
    held[0].pwrite(b"a" * 4096, 8192)
    with pytest.warns(ResourceWarning, match="unclosed <cdp.Volume .*/v "):
        held.clear()
    with cdp.open(tmp_path / "v", read_only=True) as volume:    # nothing is left to recover
        assert volume.pread(4096, 8192) == b"a" * 4096


@pytest.mark.parametrize("kind", ["after", "before"])
def test_a_dropped_result_of_create(tmp_path, kind):
    with pytest.warns(ResourceWarning):
        made(tmp_path, kind)
    cdp.open(tmp_path / "v").close()


def test_an_image_and_its_volume(tmp_path):
    volume = cdp.create(tmp_path / "v", size=SIZE)
    volume.create_image("i")
    held = [volume.open_image("i")]
    held[0].pwrite(b"b" * 512, 0)
    del volume
    with pytest.warns(ResourceWarning, match="/v/images/i "):
        held.clear()
    gc.collect()    # the image's warning referred to it, and so to its volume
    with cdp.open(tmp_path / "v") as volume, volume.open_image("i") as image:
        assert image.pread(512, 0) == b"b" * 512


@pytest.mark.parametrize("use", [
    lambda v: v.at("#1"), lambda v: v.target(), lambda v: v.iter_records(), lambda v: v.extents(),
    lambda v: v.at("#1").target(),
], ids=["time image", "target", "records", "extents", "target of a time image"])
def test_what_is_in_use_is_not_closed(tmp_path, use):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        volume = cdp.create(tmp_path / "v", size=SIZE)
        volume.pwrite(b"a" * 512, 0)
        used = use(volume)
        del volume
        gc.collect()
        with pytest.raises(cdp.Busy):
            cdp.open(tmp_path / "v")
        del used
        gc.collect()
        cdp.open(tmp_path / "v").close()


def test_a_dropped_time_image_lets_a_destructive_restore_through(tmp_path):
    with cdp.create(tmp_path / "v", size=SIZE) as volume:
        for byte in b"ab":
            volume.pwrite(bytes([byte]) * 512, 0)
        held = [volume.at("#2")]
        with pytest.raises(cdp.Busy):
            volume.restore("#1", destructive=True)
        with pytest.warns(ResourceWarning, match="unclosed <cdp.TimeImage"):
            held.clear()
        volume.restore("#1", destructive=True)
        assert volume.pread(1, 0) == b"a"


def test_in_a_circle_collected_by_another_thread(tmp_path):
    holder = {"volume": cdp.create(tmp_path / "v", size=SIZE)}
    holder["self"] = holder
    del holder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    cdp.open(tmp_path / "v").close()


def test_at_exit(tmp_path):
    """What was acknowledged is durable, and nothing is left to recover."""
    script = ("import cdp, sys\nvolume = cdp.create(sys.argv[1], size=1 << 20)\nvolume.create_image('i')\n"
              "image = volume.open_image('i')\nfor v in volume, image: v.pwrite(b'c' * 512, 0)\n")
    done = subprocess.run([sys.executable, "-W", "default", "-c", script, str(tmp_path / "v")], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("ResourceWarning: unclosed") == 2, done.stderr
    with cdp.open(tmp_path / "v", read_only=True) as volume, volume.open_image("i") as image:
        assert volume.pread(512, 0) == image.pread(512, 0) == b"c" * 512


def test_not_when_it_was_closed_or_never_opened(tmp_path, recwarn):
    volume = cdp.create(tmp_path / "v", size=SIZE)
    with volume.at("now"):
        pass
    with pytest.raises(cdp.Busy):
        cdp.open(tmp_path / "v")
    volume.close()
    del volume
    gc.collect()
    assert not [w for w in recwarn if w.category is ResourceWarning and str(tmp_path) in str(w.message)]

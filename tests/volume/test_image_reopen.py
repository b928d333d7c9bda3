"""Opening a writable image again while another thread closes it: the opener waits, and never sees the files in use."""
import threading

import pytest

import cdp

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "web", size=16 * MIB) as made:
        made.create_image("trial")
        yield made


def test_reopen_while_closing(volume):
    turns = 40
    image = volume.open_image("trial")
    for turn in range(turns):
        image.pwrite(bytes([turn + 1]) * 512, 512 * turn)
        closer = threading.Thread(target=image.close)
        closer.start()
        image = volume.open_image("trial")
        closer.join()
        assert image.pread(512, 512 * turn) == bytes([turn + 1]) * 512
    image.close()
    with volume.open_image("trial") as again:
        assert again.pread(512, 512 * (turns - 1)) == bytes([turns]) * 512


def test_delete_while_closing(volume):
    image = volume.open_image("trial")
    image.pwrite(b"x" * 512, 0)
    closer = threading.Thread(target=image.close)
    closer.start()
    while True:
        try:
            volume.delete_image("trial")
            break
        except cdp.Busy:
            assert closer.is_alive()
    closer.join()
    assert not volume.images()

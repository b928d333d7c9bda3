"""A server that has answered one request of the administration loads nothing of cdp, or NumPy, any more: its files may
be another version's by then."""
import subprocess
import sys

import pytest

CODE = """
import sys
import cdp
from cdp.serve.admin import AdminServer
from cdp.serve.held import Held
from cdp.serve.image_cache import ImageCache
from cdp.service.local import VolumeService
from cdp.service.locate import Location
from cdp.service.remote import RemoteService

root, socket = sys.argv[1:]
with cdp.create(root, size=1 << 20) as volume:
    server = AdminServer(socket, {"web": Held(VolumeService(volume), ImageCache(volume), "1:1", lambda name: [])})
    server.start()
    remote = RemoteService(socket, "web", Location(root))
    remote.info()
    before = set(sys.modules)
    remote.write(0, b"1" * 4096)
    remote.bookmark("b")
    remote.write(0, b"2" * 4096)
    remote.zero(4096, 4096)
    remote.flush()
    remote.records()
    remote.history()
    remote.map()
    remote.metrics(buckets=True)
    remote.clients()
    remote.simulate('keep = ["all for 1h"]')
    remote.window()
    remote.explain("b")
    remote.read(0, 4096, at="b")
    remote.versions(0, 4096)
    remote.diff("b", "now")
    remote.create_image("i", at="b")
    remote.images()
    remote.delete_image("i")
    remote.restore("b")
    remote.undo()
    remote.restores()
    remote.bookmarks()
    remote.pins()
    remote.policy()
    remote.space()
    remote.check()
    remote.close()
    server.close()
ours = {"cdp", "cdpcore", "numpy"}
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] in ours))
"""


@pytest.mark.cold
def test_all_is_loaded_with_the_first_request(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "web"), str(tmp_path / "admin")],
                          capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

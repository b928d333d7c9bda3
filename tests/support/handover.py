"""A world whose server is replaced by new processes, and a client that writes meanwhile."""
import subprocess
import threading
import time

from support.interop import READY_SECONDS, World, cdp_argv, environ

from cdp.nbd.client import Client


class Replaced(World):
    """A world whose server is replaced by new processes."""

    def replace(self, *args, status=None):
        """Start `cdp serve ARGS --replace`. It takes over, and the old one ends with status 0; the old one's log. With
        a `status`: it ends with that, and the old one goes on; what it said."""
        new_log = self.path / f"serve-{time.monotonic_ns()}.log"
        with new_log.open("wb") as log:
            new = subprocess.Popen(cdp_argv("serve", *args, "--replace", "--log-level", "info"), cwd=self.path,
                                   env=environ(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=log)
        if status is not None:
            try:
                assert new.wait(60) == status, new_log.read_text()
            finally:
                new.kill()
                new.stdout.close()
            assert self.server.poll() is None, self.log.read_text()
            return new_log.read_text()
        old, self.server = self.server, new
        try:
            until_s = time.monotonic() + READY_SECONDS
            while "cdp: ready" not in new_log.read_text():
                assert new.poll() is None and time.monotonic() < until_s, new_log.read_text()
                time.sleep(0.02)
        except BaseException:
            old.kill()
            raise
        assert old.wait(60) == 0, self.log.read_text()
        old.stdout.close()
        said, self.log = self.log.read_text(), new_log
        assert "Traceback" not in said
        return said


class Writer(threading.Thread):
    """Writes numbered blocks one after the other, and reads each again."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.client, self.done, self.error = Client(uri), 0, None
        self.stop = threading.Event()

    def run(self):
        try:
            while not self.stop.is_set():
                block = self.done.to_bytes(8, "little") * 512
                self.client.pwrite(block, self.done % 512 * 4096, fua=self.done % 7 == 0)
                assert self.client.pread(4096, self.done % 512 * 4096) == block
                self.done += 1
        except Exception as error:  # noqa: BLE001  (shown by finish)
            self.error = error

    def finish(self):
        self.stop.set()
        self.join(60)
        if self.error:
            raise self.error
        self.client.close()

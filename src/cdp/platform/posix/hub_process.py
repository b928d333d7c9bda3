"""A hub that was started here (`python -m cdp.platform.posix.hub`)."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile

from cdp.ipc.link import Link
from cdpcore.base.errors import Unavailable


class HubProcess:
    """A hub that was started here; it ends with close()."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cdp-hub-")
        self.path = os.path.join(self._folder, "hub.sock")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", "cdp.platform.posix.hub", str(theirs.fileno())],
                                             pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                             start_new_session=True)
        self._link = Link(ours)
        self._link.send({"path": self.path})
        if self._link.receive() is None:
            self.close()
            raise Unavailable("the platform's hub process did not start", "see its messages on standard error")

    def close(self) -> None:
        self._link.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

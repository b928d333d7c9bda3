"""The demo's server: `cdp serve web` as a process of its own, that can be stopped or killed. One thread."""
from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from cdp.demo.narrator import Failed, Teller, cdp_command
from cdp.nbd.client import Client, unix_address

READY_SECONDS = 30.0
STOP_SECONDS = 30.0


class Server:
    """`cdp serve web`, as a process."""

    def __init__(self, teller: Teller):
        self._teller = teller
        self.socket = os.path.join(teller.directory, "web.sock")
        self._log = Path(teller.directory, "serve.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Returns the URI that it printed."""
        with self._log.open("wb") as log:
            self._process = self._teller.start(cdp_command("serve", "web", "--unix", "web.sock"), log.fileno())
        deadline_s = time.monotonic() + READY_SECONDS
        while b"cdp: ready" not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise Failed(f"cdp serve did not start: {self._log.read_text().strip()[-500:]}")
            time.sleep(0.02)
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def client(self, export: str) -> Client:
        """A connection to one of its exports."""
        return Client(unix_address(self.socket, export))

    def kill(self) -> None:
        """As a crash would."""
        assert self._process is not None
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """Ask it to end, as a system that shuts down does; its exit status. Safe to call at any time."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self._end()

    def _end(self) -> int:
        assert self._process is not None
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None
        return status

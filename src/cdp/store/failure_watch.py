"""Reports that a volume takes no more writes, because one of the log or of the protected disk failed: once, when it
happens. Clients get the error, too, and who runs the server need not see theirs.

Threading: look() from one thread at a time.
"""
from __future__ import annotations

import logging

from cdpcore.log.log import Log

log = logging.getLogger("cdp.store")


class FailureWatch:
    """Args: directory: the volume's, for messages; volume_log: its log."""

    def __init__(self, directory: str, volume_log: Log):
        self._directory, self._log = directory, volume_log
        self._reported = False

    def look(self) -> None:
        """To be called every half second."""
        if not self._reported and (failure := self._log.failure()):
            self._reported = True
            log.error("%s: no write is taken any more: %s", self._directory, failure)

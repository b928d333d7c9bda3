"""Log lines on standard error: one format for all processes of cdp, as text for people or as JSON for collectors.

Invariants
  1. In JSON every line is one object: entries of the log, with the traceback of an error inside, and what a server
     says to people ("ready", the error that ends it).
  2. An entry that cannot be written is lost, and nothing else.
set_up() belongs to the main thread, at the start of a process; the rest may be called by any thread.
"""
import json
import logging
import os
import sys
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHATTY = ("httpx", "httpcore", "uvicorn")   # of use only to who works on the administration


class JsonLines(logging.Formatter):
    """One JSON object a line. `event` is the message before its values are in it: the same for all of a kind."""

    def __init__(self, role: str = ""):
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        from cdp.text.timestamps import utc

        entry: dict[str, Any] = {"time": utc(int(record.created * 1e6) * 1000), "level": record.levelname.lower(),
                                 "logger": record.name, "pid": os.getpid()}
        if self._role:
            entry["role"] = self._role
        entry |= {"message": record.getMessage(), "event": str(record.msg)}
        if about := getattr(record, "about", None):
            entry["about"] = about
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(level: str, log_format: str, role: str = "") -> None:
    """Log lines of `level` (a name in small letters) and above go to standard error, as `log_format` ("text", "json")
    says. `role`: what this process is, where one command has several."""
    handler = logging.StreamHandler(sys.stderr)
    who = f"{role}[{os.getpid()}] " if role else ""
    handler.setFormatter(JsonLines(role) if log_format == "json"
                         else logging.Formatter(TEXT.replace("%(levelname)s", f"{who}%(levelname)s")))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" and not role else "WARNING")


def said_as_json(text: str, level: int) -> bool:
    """Write `text`, a line for people, as an entry, where the log is JSON; else False. The log's level does not
    count."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one.formatter, JsonLines)]
    record = logging.LogRecord("cdp", level, __file__, 0, text, None, None)
    for handler in handlers:
        handler.handle(record)
    return bool(handlers)

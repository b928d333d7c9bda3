"""The processes that a manager starts: `python -m cdp.ha.process gateway|tsd FD`, where FD is the link to it.

They do what the manager says, and end, cleanly, when it does. A daemon is in shadow mode until it is to own
volumes: everything is loaded, no volume is open. Threading: the main thread listens to the manager; a daemon beats in a
thread of its own, which stops when the process does.
"""
from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from cdp.ipc import log_lines
from cdp.ipc.errors import encode_error
from cdp.ipc.link import Link, Message
from cdp.ipc.stop_signals import leave_to_parent
from cdp.settings import Settings
from cdpcore.base.errors import CdpError

log = logging.getLogger("cdp.ha")

BEAT_SECONDS = 0.1


def run_gateway(link: Link, order: Message) -> None:
    from cdp.ha.gateway import Gateway
    from cdp.nbd import TcpAddress, UnixAddress
    from cdp.serve.addresses import connection_memory_bytes, tls_settings

    settings = Settings(**order["settings"])
    addresses = [UnixAddress(a[1]) if a[0] == "unix" else TcpAddress(a[1], a[2]) for a in order["addresses"]]
    try:
        with Gateway(order["control"], addresses, tls=tls_settings(settings),
                     max_connections=settings.max_connections, memory_bytes=connection_memory_bytes(settings),
                     replace=bool(order.get("replace")),
                     force=bool(order.get("force")), replaced=link.hang_up) as gateway:
            uris = [gateway.uri(name, i) for name in order.get("names", [""]) for i in range(len(gateway.addresses))]
            link.send({"op": "serving", "uris": uris})
            threading.Thread(target=_beat, args=(link, gateway.view), daemon=True).start()
            while (got := link.receive()) is not None and got[0].get("op") != "stop":
                pass
    except CdpError as error:
        link.send({"op": "failed", "error": encode_error(error)})


def run_daemon(link: Link, order: Message) -> None:
    import cdp
    from cdp.ha.daemon import Daemon
    from cdp.store.memory import map_large_blocks

    _ = cdp.Volume      # imports that a failover must not wait for
    map_large_blocks()

    daemon = Daemon(order["gateway"], Settings(**order["settings"]), bool(order["read_only"]))
    worker: threading.Thread | None = None
    link.send({"op": "shadow"})
    threading.Thread(target=_beat, args=(link,), daemon=True).start()
    while (got := link.receive()) is not None:
        match got[0].get("op"):
            case "own":
                worker = threading.Thread(target=_serve, args=(daemon, link, got[0]["paths"]), name="tsd")
                worker.start()
            case "ending":
                daemon.ending = True
                link.send({"op": "warned"})
            case "release":
                break
    daemon.stop()
    if worker:
        worker.join()
    daemon.close()


def _serve(daemon: Any, link: Link, paths: list[str]) -> None:
    began = time.monotonic()
    try:
        daemon.own(paths)
    except Exception as error:
        if not isinstance(error, CdpError):
            log.exception("opening the volumes failed")
        link.send({"op": "failed", "error": encode_error(error)})
        return
    opened = time.monotonic()

    def report() -> None:
        daemon.ready.wait()
        link.send({"op": "active", "opened_ms": 1e3 * (opened - began), "replayed": daemon.replayed,
                   "serving_ms": 1e3 * (time.monotonic() - began)})

    threading.Thread(target=report, daemon=True).start()
    daemon.serve()


def _beat(link: Link, view: Callable[[], Message] = dict) -> None:
    """view: what the manager is told of this process with each beat."""
    while link.send({"op": "beat", **view()}):
        time.sleep(BEAT_SECONDS)


def main() -> None:
    role, fd = sys.argv[1], int(sys.argv[2])
    leave_to_parent()
    link = Link(socket.socket(fileno=fd))
    if (got := link.receive()) is None:
        return
    order = got[0]
    log_lines.set_up(order["settings"]["log_level"], order["settings"]["log_format"], role)
    with link:
        try:
            {"gateway": run_gateway, "tsd": run_daemon}[role](link, order)
        except CdpError as error:
            log.error("%s", error)
            os._exit(error.exit_code)
        os._exit(0)     # a successor waits for this process's end, and all that matters is closed


if __name__ == "__main__":
    main()

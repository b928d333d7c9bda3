"""What monitoring asks of a server, and cannot change anything by: GET /metrics and GET /healthz.

They are on the administration socket, and on TCP where `metrics_listen` says so: Prometheus and a container's health
check know no unix sockets. TCP has these two alone, without a password: give it an address that others cannot reach.
"""
from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from cdp.nbd.listeners import TcpAddress, listen
from cdp.serve.admin import NotOpen
from cdp.serve.held import Memory
from cdp.serve.prometheus import Exposition
from cdp.service.local import VolumeService
from cdpcore.base.errors import CdpError

MAX_REQUESTS = 32       # at once over TCP; a further one is answered 503
STOP_SECONDS = 2


def troubles(services: Mapping[str, VolumeService]) -> list[str]:
    """What is wrong with the volumes, a line each; empty where all can be written and read."""
    found = []
    for name, service in services.items():
        try:
            service.check_folder()
            if errno := service.volume.stats()["failed_errno"]:
                found.append(f"{name}: its log failed with errno {errno}")
        except (CdpError, OSError) as error:
            found.append(f"{name}: {error}")
    return found


def routes(services: Mapping[str, VolumeService], not_open: NotOpen = list, memory: Memory | None = None) -> APIRouter:
    """The two routes over served volumes, by name; not_open: those that are not served, yet; memory: of the server's
    NBD connections."""
    router, exposition = APIRouter(), Exposition(services, not_open, memory)

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics(request: Request) -> Response:
        """Prometheus or OpenMetrics text, as the header Accept asks."""
        text, content_type = exposition.encode(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    @router.get("/healthz", response_class=PlainTextResponse,
                responses={503: {"description": "a line for every volume with a trouble"}})
    def healthz() -> Response:
        """200 where every volume can be used."""
        found = troubles(services) + [f"{one['name']}: {one['state']}" + (f": {one['error']}" if one["error"] else "")
                                      for one in not_open()]
        return PlainTextResponse("".join(f"{line}\n" for line in found) or "ok\n", 503 if found else 200)

    return router


class MonitorServer:
    """The routes on TCP, in a thread of its own, from start() to close(); both belong to one thread."""

    def __init__(self, host: str, port: int, services: Mapping[str, VolumeService], not_open: NotOpen = list,
                 memory: Memory | None = None):
        self._stack = ExitStack()
        listeners = listen(TcpAddress(host, port))
        for listener in listeners:
            self._stack.callback(listener.close)
        self.address = str(listeners[0].address)
        app = FastAPI(title="cdp monitoring", version="1", docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(routes(services, not_open, memory))
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none",
                                limit_concurrency=MAX_REQUESTS, timeout_graceful_shutdown=STOP_SECONDS)
        self._server = uvicorn.Server(config)
        self._sockets: list[socket.socket] = [listener.sock.dup() for listener in listeners]
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="cdp-monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=2 * STOP_SECONDS)
        for sock in self._sockets:
            sock.close()
        self._stack.close()

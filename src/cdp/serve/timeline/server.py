"""The page's server: files of the package and routes over the served volumes, behind the guard, on loopback.

Invariants
  1. It listens on loopback alone. The token is made when the process begins to offer the page, and dies with it.
  2. The page's files are read when it starts: a server is of one version to its end.
TimelineServer's methods belong to one thread; the event loop is its own thread's.
"""
from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.resources import files

import uvicorn
from fastapi import FastAPI, Response

from cdp.nbd.listeners import TcpAddress, listen
from cdp.serve.held import Held
from cdp.serve.timeline.guard import Guard
from cdp.serve.timeline.routes import add_routes

MAX_REQUESTS = 64       # at once; a further one is answered 503
STOP_SECONDS = 2
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Content and type of each file of the page, by its path."""
    found = {}
    for file in files("cdp.serve.timeline").joinpath("web").iterdir():
        if (suffix := "." + file.name.rpartition(".")[2]) in TYPES:
            found[file.name] = (file.read_bytes(), TYPES[suffix])
    return found


def build_app(held: Mapping[str, Held], token: str) -> Guard:
    """The application over the served volumes, by name, which may become more."""
    app = FastAPI(title="cdp timeline", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, held)
    pages = page_files()

    @app.api_route("/", methods=["GET", "HEAD"])
    @app.api_route("/{name}", methods=["GET", "HEAD"])
    async def page(name: str = "index.html") -> Response:
        if name not in pages:
            return Response("no such page\n", 404, media_type="text/plain")
        content, kind = pages[name]
        return Response(content, media_type=kind)

    return Guard(app, token)


class TimelineServer:
    """The page on TCP, in a thread of its own, from start() to close(), which may be repeated; both belong to one
    thread. url: with the token, which is as good as a password of every served volume. before: a server that was
    closed; this one is found at the same url."""

    url: str
    port: int
    token: str

    def __init__(self, host: str, port: int, held: Mapping[str, Held], before: TimelineServer | None = None):
        self._stack = ExitStack()
        self._host, self._held = host, held
        self.token = before.token if before else secrets.token_urlsafe(32)
        app = build_app(held, self.token)
        listeners = listen(TcpAddress(host, before.port if before else port))
        for listener in listeners:
            self._stack.callback(listener.close)
        self.port = int(str(listeners[0].address).rpartition(":")[2])
        self.address = f"http://{listeners[0].address}/"
        self.url = f"{self.address}#token={self.token}"
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False,
                                limit_concurrency=MAX_REQUESTS, timeout_graceful_shutdown=STOP_SECONDS)
        self._server = uvicorn.Server(config)
        self._sockets: list[socket.socket] = [listener.sock.dup() for listener in listeners]
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="cdp-timeline",
                                        daemon=True)

    def start(self) -> None:
        self._thread.start()

    def again(self) -> TimelineServer:
        """After close(): the same page, started."""
        one = TimelineServer(self._host, self.port, self._held, self)
        one.start()
        return one

    def close(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=2 * STOP_SECONDS)
        for sock in self._sockets:
            sock.close()
        self._stack.close()

"""The administration socket of a server, and the HTTP application behind it (cdp.serve.http_api).

Invariants
  1. The socket is created with mode 0600: a process that can connect may do everything that the server's user may do.
     A second one, where there is one, has READ_MODE and answers GET alone: all else is refused before anything sees it.
  2. The application is loaded by the first request that needs it: that takes 0.45 s of processor time, more than all
     else that a server does before it is ready, and many servers are never asked anything. Requests wait meanwhile.
  3. Who the server is (GET /v1/server) is answered at once, also while the application is loaded, and while every
     thread of its pool is at work: that is how a client tells a server that works from one that is stopped.
AdminServer's methods belong to the thread that made it; the event loop is its own thread's.
"""
import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cdp.ipc.errors import encode_error
from cdp.ipc.unix_socket import UnixListener, bind_unix
from cdp.serve.addresses import runtime_directory
from cdp.serve.held import Held, Memory
from cdp.serve.waiting import Waiting
from cdp.service.servers import link_socket
from cdp.views import NotOpenView
from cdpcore.base.errors import Busy, CdpError, InvalidRequest

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp, Receive, Scope, Send

STOP_SECONDS = 5
READ_MODE = 0o660
HandOver = Callable[[str, int, bool], None]      # socket, version, force; raises why not
NotOpen = Callable[[], list[NotOpenView]]


def server_view(held: Mapping[str, Held], not_open: NotOpen = list) -> dict[str, Any]:
    """The process; the volumes that it holds: name, and the identity of the folder (cdp.service.locate.identity); and
    those that it is opening, or could not open."""
    return {"pid": os.getpid(), "volumes": {name: one.identity for name, one in list(held.items())},
            "not_open": not_open()}


async def _answer(send: "Send", status: int, view: Mapping[str, Any]) -> None:
    body = json.dumps(view).encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


class _Application:
    """cdp.serve.http_api's, loaded when it is needed; an ASGI application of the event loop's thread. It knows how many
    requests it is at."""

    def __init__(self, held: Mapping[str, Held], hand_over: HandOver | None, not_open: NotOpen, read_path: str,
                 memory: Memory | None):
        self._read_path, self._memory, self.waiting = read_path, memory, Waiting()
        self._held, self._hand_over, self._not_open = held, hand_over, not_open
        self._app: ASGIApp | None = None
        self._loading = asyncio.Lock()
        self.running = 0    # other threads only look

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        self.running += 1
        try:
            if self._read_path and (scope.get("server") or ("",))[0] == self._read_path and (
                    scope["type"] != "http" or scope["method"] != "GET"):
                refused = InvalidRequest(f"{scope.get('method', scope['type'])} {scope['path']}: this socket answers "
                                         "GET requests only", "use the administration socket")
                await _answer(send, 403, encode_error(refused))
                return
            if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", "/v1/server"):
                await _answer(send, 200, server_view(self._held, self._not_open))
                return
            async with self._loading:
                if self._app is None:
                    self._app = await asyncio.to_thread(self._load)
            await self._app(scope, receive, send)
        finally:
            self.running -= 1

    def _load(self) -> "ASGIApp":
        from cdp.serve.http_api import build_app

        return build_app(self._held, self._hand_over, self._not_open, self._memory, self.waiting)


class AdminServer:
    """The application on a unix socket, in a thread of its own, until close(). held: may become more meanwhile.
    listener: of the server before, which has handed it over; it is this one's from start() on. not_open: the volumes
    that are not held yet, or could not be opened. read_path: a second socket, which answers GET alone. memory: of the
    NBD connections, for /metrics."""

    def __init__(self, path: str, held: Mapping[str, Held], hand_over: HandOver | None = None,
                 listener: UnixListener | None = None, not_open: NotOpen = list, read_path: str | None = None,
                 memory: Memory | None = None):
        self.path = path
        self._link = ""
        self._given = listener is not None
        # From here on the kernel queues clients.
        self._listener: UnixListener | None = listener or bind_unix(path, option="--admin-socket SOCK")
        self._sock = self._listener.sock.dup()      # of the thread, which closes it
        try:
            self._reads = bind_unix(read_path, mode=READ_MODE, option="--admin-read-socket SOCK") if read_path else None
        except BaseException:
            self._sock.close()
            if not self._given:
                self._listener.close()
            raise
        self._app = _Application(held, hand_over, not_open, self._reads.sock.getsockname() if self._reads else "",
                                 memory)
        self._lock = threading.Lock()               # guards _stopping and _server
        self._stopping = False
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="cdp-admin", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._given = False
        self._thread.start()
        with suppress(CdpError):    # no runtime folder: 'cdp list' does not find it
            self._link = link_socket(runtime_directory(), self.path)

    def _run(self) -> None:
        import uvicorn

        config = uvicorn.Config(self._app, log_config=None, access_log=False, lifespan="off", ws="none",
                                timeout_graceful_shutdown=STOP_SECONDS)
        server = uvicorn.Server(config)
        with self._lock:
            self._server = server
            server.should_exit = self._stopping
        server.run([self._sock, self._reads.sock.dup()] if self._reads else [self._sock])

    def hand_over(self, force: bool) -> UnixListener:
        """Stop, and give away the listening socket: who connects waits for the next server. Raises Busy where a request
        does not end within STOP_SECONDS; `force`: it is cut."""
        until_s = time.monotonic() + STOP_SECONDS
        self._app.waiting.release()
        while self._app.running and not force and time.monotonic() < until_s:
            time.sleep(0.005)
        if self._app.running and not force:
            self._app.waiting.resume()
            raise Busy("a command is at work through this server, a check for instance", "let it end, or give --force")
        listener, self._listener = self._listener, None
        assert listener
        self.close()
        return listener

    def close(self) -> None:
        """Stop accepting, let running requests end for up to STOP_SECONDS, remove the socket. Twice is no error."""
        if self._link:
            with suppress(OSError):
                os.unlink(self._link)
        self._app.waiting.release()
        with self._lock:
            self._stopping = True
            if self._server:
                self._server.should_exit = True
        if self._thread.ident is None:      # never started
            self._sock.close()
        elif self._thread.is_alive():
            self._thread.join(timeout=2 * STOP_SECONDS)
        if self._reads:
            self._reads.close()
        if self._listener and not self._given:
            self._listener.close()

"""Who may ask for what: every request of the page's server goes through the guard first.

Other users of the machine can connect to a loopback port, and so can any web page that a browser on it shows. So:

Invariants
  1. Nothing of a volume is answered without the token, which comes in the header Authorization and no other way: a
     browser adds that header to no request by itself, so that no other page can borrow it.
  2. Host must be a name of loopback. A page of another name that resolves to 127.0.0.1 (DNS rebinding) is refused.
  3. Origin, where there is one, must be the page's own.
  4. A request body has its length in the header, and is at most MAX_BODY_BYTES.
  5. Every answer forbids what the page does not need: scripts but its own files, frames around it, other origins.
"""
from __future__ import annotations

import hmac
import json
import re
from typing import TYPE_CHECKING

from cdp.ipc.errors import encode_error
from cdp.serve.timeline.address import is_loopback
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 << 10
METHODS = ("GET", "HEAD", "POST", "DELETE")
API = "/api/"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
          "trusted-types 'none'")
HEADERS = tuple((name.encode(), value.encode()) for name, value in {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "x-frame-options": "DENY",
    "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-store",
}.items())


def refusal(method: str, path: str, headers: dict[str, list[str]], token: str) -> tuple[int, str, str] | None:
    """(status, message, hint) of a request that is refused. headers: by lower-case name."""
    hosts = headers.get("host", [])
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", hosts[0], re.ASCII) if len(hosts) == 1 \
        else None
    if not found or not is_loopback(found[1] or found[2]):
        return 421, f"the host {', '.join(hosts) or 'is missing, which'} is not this server", "use localhost"
    if any(origin.lower() != f"http://{hosts[0]}".lower() for origin in headers.get("origin", [])):
        return 403, "the request comes from another page", "open the address that 'cdp serve' printed"
    if method not in METHODS:
        return 405, f"{method} is not a method of this server", f"use {', '.join(METHODS)}"
    if path.startswith(API):
        given = headers.get("authorization", [])
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), f"Bearer {token}".encode()):
            return 401, "the token is missing or wrong", "open the whole address that 'cdp serve' printed, with #token="
    if "transfer-encoding" in headers:
        return 411, "a body without a length", "send Content-Length"
    length = headers.get("content-length", ["0"])
    if len(length) != 1 or not re.fullmatch(r"\d{1,9}", length[0], re.ASCII) or int(length[0]) > MAX_BODY_BYTES:
        return 413, "the body is too large", f"send at most {MAX_BODY_BYTES} bytes"
    return None


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        wrong = (405, "not a request of HTTP", "") if scope["type"] != "http" else refusal(
            scope["method"], scope["path"], headers, self._token)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        if wrong is None:
            await self._app(scope, receive, answer)
            return
        status, text, hint = wrong
        body = json.dumps(encode_error(InvalidRequest(text, hint))).encode()
        more = [(b"allow", ", ".join(METHODS).encode())] if status == 405 else []
        await answer({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"), *more]})
        await answer({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

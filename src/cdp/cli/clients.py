"""What restore and undo do about NBD clients that are connected."""
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cdp.text.sizes import parse_duration_ms
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.views import ClientView, Service

POLL_SECONDS = 0.1


def under_clients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --force and --wait."""
    wait = click.option("--wait", metavar="TIME", help="Wait so long for clients that may write to be gone.")
    force = click.option("--force", is_flag=True, help="Also while clients are connected that may write.")
    return force(wait(function))


def clients_gone(service: "Service", force: bool, wait: str | None, dry_run: bool) -> "list[ClientView]":
    """The clients that may write, as they are after waiting. What is done then is refused by the server where there
    are any."""
    if force and wait is not None:
        raise InvalidRequest("--force and --wait exclude each other", "give one of the two")
    until_s = time.monotonic() + (parse_duration_ms(wait, "--wait") / 1e3 if wait is not None and not dry_run else 0)
    while found := [client for client in service.clients() if not client["read_only"]]:
        if time.monotonic() >= until_s:
            break
        time.sleep(POLL_SECONDS)
    return found

"""All servers of this user: found by their administration sockets in the runtime folder, where one that was given
another place has a link.

Any thread.
"""
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cdp.service.locate import Location
from cdp.service.remote import NoAnswer, RemoteService
from cdp.views import ServedVolumeView
from cdpcore.base.errors import CdpError

if TYPE_CHECKING:
    from cdp.views import InfoView

ENDING = ".admin.sock"


def link_socket(directory: str, socket_path: str) -> str:
    """Make a socket that is elsewhere known in the runtime folder; the link's path, "" where none is needed or can
    be made."""
    if os.path.dirname(os.path.realpath(socket_path)) == os.path.realpath(directory):
        return ""
    link = os.path.join(directory, f"{os.getpid()}{ENDING}")
    try:
        with suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(os.path.abspath(socket_path), link)
    except OSError:
        return ""
    return link


def served_volumes(directory: str) -> list[ServedVolumeView]:
    """Every volume that a server of this user has, by path; and the servers that do not answer."""
    found: list[ServedVolumeView] = []
    for path in _sockets(directory):
        found += _of(path)
    return sorted(found, key=lambda view: (view["path"] or "", view["admin_socket"]))


def servers(directory: str) -> Iterator[tuple[str, list[str] | None]]:
    """The administration socket of every server of this user, and the names of its volumes; None where it does not
    answer."""
    for path in _sockets(directory):
        with RemoteService(path, "", Location(path)) as server:
            try:
                yield path, list(server.server()["volumes"])
            except NoAnswer:
                yield path, None
            except CdpError:
                pass    # nobody listens


def dead_sockets(directory: str) -> Iterator[str]:
    """The administration sockets on which nobody listens: their servers were killed."""
    for path in _sockets(directory):
        with RemoteService(path, "", Location(path)) as server:
            try:
                server.server()
            except NoAnswer:
                pass
            except CdpError:
                yield path


def _sockets(directory: str) -> Iterator[str]:
    seen = set()
    for name in sorted(os.listdir(directory)):
        path = os.path.realpath(os.path.join(directory, name))
        if not name.endswith(ENDING) or path in seen:
            continue
        if os.path.exists(path):
            seen.add(path)
            yield path
        elif os.path.islink(link := os.path.join(directory, name)):     # of a server that was killed
            with suppress(OSError):
                os.unlink(link)


def _of(path: str) -> Iterator[ServedVolumeView]:
    with RemoteService(path, "", Location(path)) as server:
        try:
            answer = server.server()
        except NoAnswer:
            yield ServedVolumeView(name=None, path=None, state="does not answer", pid=None, admin_socket=path, uris=[],
                                   size_bytes=None, newest_seq=None, clients=None)
            return
        except CdpError:
            return      # nobody listens
    for one in answer.get("not_open", []):
        state = f"{one['state']}: {one['error']}" if one["error"] else one["state"]
        yield ServedVolumeView(name=one["name"], path=one["path"], state=state, pid=answer["pid"], admin_socket=path,
                               uris=[], size_bytes=None, newest_seq=None, clients=None)
    for name in answer["volumes"]:
        with RemoteService(path, name, Location(name), answer["pid"]) as volume, suppress(CdpError):
            yield _view(path, answer, volume.info(), len(volume.clients()))


def _view(path: str, answer: dict[str, Any], info: "InfoView", clients: int) -> ServedVolumeView:
    state = "serving"
    if (capture := info["capture"]) and capture["running"]:
        state = f"captures {capture['source']}"
    elif info["writeback"]:
        state = "writes a restore back"
    return ServedVolumeView(
        name=info["name"], path=info["path"], state=state, pid=answer["pid"], admin_socket=path,
        uris=info["served"]["uris"] if info["served"] else [], size_bytes=info["size_bytes"],
        newest_seq=info["window"]["newest"]["seq"], clients=clients)

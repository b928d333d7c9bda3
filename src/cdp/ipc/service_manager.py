"""What systemd and its like expect of a service: it says when it is ready, may be given its listening sockets, and sees
where its output goes.

All are by environment variables, NOTIFY_SOCKET, LISTEN_FDS and JOURNAL_STREAM (sd_notify(3), sd_listen_fds(3),
systemd.exec(5)); without them nothing happens here.
"""
import os
import socket
from contextlib import suppress

from cdpcore.base.errors import InvalidRequest

FIRST_FD = 3
NOTIFY_SECONDS = 5.0
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def notify(**state: object) -> None:
    """Say it to the service manager: notify(READY=1). One that does not listen any more is no error."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={value}" for name, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.settimeout(NOTIFY_SECONDS)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.send(text.encode())


def given_sockets() -> list[socket.socket]:
    """Listening stream sockets that the manager passed to this process, which are the caller's from now on; processes
    that it starts get none. Empty where there are none, and at a second call. Raises InvalidRequest for another kind
    of descriptor."""
    pid, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    for name in _VARIABLES:
        os.environ.pop(name, None)
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            raise InvalidRequest(f"the service manager passed descriptor {fd}, which is no listening socket",
                                 "give the socket unit ListenStream= lines alone, and Accept=no")
        found.append(sock)
    return found


def prints_to_journal() -> bool:
    """Whether standard output goes to the journal of systemd, as JOURNAL_STREAM says (systemd.exec(5))."""
    try:
        is_there = os.fstat(1)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{is_there.st_dev}:{is_there.st_ino}"

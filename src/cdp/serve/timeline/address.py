"""Where the page may be offered: on loopback."""
import ipaddress

from cdp.settings import parse_address
from cdpcore.base.errors import InvalidRequest


def is_loopback(host: str) -> bool:
    """Of a host name or an IP address as it is written: no name is looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(text: str) -> tuple[str, int]:
    """(host, port) of what --timeline says. Raises InvalidRequest where it is not loopback."""
    host, port = parse_address(text, "--timeline")
    if not is_loopback(host):
        raise InvalidRequest(f"--timeline {text}: others could reach it", "the page is for this machine: give "
                             "localhost:PORT; from elsewhere: ssh -L PORT:localhost:PORT")
    return host, port

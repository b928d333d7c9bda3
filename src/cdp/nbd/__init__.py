"""Serving volumes and time images over NBD."""
from cdp.nbd.exports import Export, Resolver
from cdp.nbd.handshake import TlsMode
from cdp.nbd.listeners import Address, TcpAddress, UnixAddress, export_uri
from cdp.nbd.server import ConnectionInfo, NbdServer
from cdp.nbd.tls import TlsSettings

__all__ = [
    "Address",
    "ConnectionInfo",
    "Export",
    "NbdServer",
    "Resolver",
    "TcpAddress",
    "TlsMode",
    "TlsSettings",
    "UnixAddress",
    "export_uri",
]

"""Serving volumes and time images over NBD: everything but the transmission loop (cdpcore.nbd).

    protocol           numbers and layouts, for both sides: where a new NBD option begins
    handshake          options answered, up to an export and what was negotiated
    exports            what a server is given: names to exports
    handover           listeners and connections for another server
    server, listeners  connections and their bounds; sockets
    tls, psk           certificates, or keys that clients have too, and the relay between TLS and the transmission loop
    client             the client's side: an address, a socket in transmission, a simple disk
"""
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

"""TLS with pre-shared keys, as nbdkit, libnbd and QEMU have it: a file of users and their keys, and no certificates.

    USER:HEXKEY         a line each; empty lines and those that begin with # do not count

Each side proves that it has the key of the user whom the client names. Keys are used with an ephemeral exchange alone
(TLS 1.3, or ECDHE-PSK of TLS 1.2), so a key that becomes known later does not open what was recorded before.

Invariant: neither side goes on without a key. A client's context has no authority that it trusts, so a server with a
certificate in place of the key is refused too.
Threading: contexts are shared by all connections; what they look at does not change.
"""
from __future__ import annotations

import os
import ssl
import stat
import sys

from cdpcore.base.errors import InvalidRequest, Unavailable

HAS_PSK = getattr(ssl, "HAS_PSK", False)    # from Python 3.13 on
MAX_FILE_BYTES = 1 << 20
MAX_USER_BYTES = 127
LEAST_KEY_BYTES, MOST_KEY_BYTES = 16, 256
CIPHERS = "kECDHEPSK+CHACHA20:kECDHEPSK+AES"    # of TLS 1.2; those of 1.3 have an ephemeral exchange anyway
FORM = "a line USER:HEXKEY each, as 'psktool -u USER -p FILE' writes it"


def check_available() -> None:
    """Raises Unavailable where this Python cannot do it."""
    if not HAS_PSK:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise Unavailable(f"TLS with pre-shared keys needs Python 3.13 or later, and this is {version}",
                          "run cdp with a later Python, or use certificates: tls_cert and tls_key")


def read_keys(path: str, *, private: bool) -> dict[str, bytes]:
    """The keys by user. private: a file that everybody can read is refused. Raises InvalidRequest, which never tells a
    key."""
    try:
        with open(path, "rb") as file:
            if private and os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise InvalidRequest(f"{path}: everybody can read these keys", f"chmod o= {path}")
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"pre-shared keys: {path}: {error.strerror}", f"give a file: {FORM}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidRequest(f"{path}: more than {MAX_FILE_BYTES} bytes of keys", f"give a file: {FORM}")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        user, key = _entry(line.strip(), f"{path}, line {number}")
        if user in keys:
            raise InvalidRequest(f"{path}, line {number}: a second key of the user {user!r}", "leave one of them out")
        keys[user] = key
    if not keys:
        raise InvalidRequest(f"{path}: no keys", f"give a file: {FORM}")
    return keys


def _entry(line: bytes, where: str) -> tuple[str, bytes]:
    user, colon, text = line.rpartition(b":")
    try:
        name, key = user.decode(), bytes.fromhex(text.decode("ascii"))
    except ValueError:
        colon = b""
    if not colon or not name or not name.isprintable() or len(user) > MAX_USER_BYTES:
        raise InvalidRequest(f"{where}: no user and key", f"write {FORM}; a user has up to {MAX_USER_BYTES} bytes")
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise InvalidRequest(f"{where}: a key of {len(key)} bytes",
                             f"a key has {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} bytes, two digits each")
    return name, key


def server_context(path: str) -> ssl.SSLContext:
    """For a server. Raises InvalidRequest for an unusable file, Unavailable."""
    check_available()
    keys = read_keys(path, private=True)
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0     # who comes again has the key
    context.set_psk_server_callback(lambda user: keys.get(user or "", b""))  # type: ignore[attr-defined,unused-ignore]
    return context


def client_context(path: str, user: str) -> ssl.SSLContext:
    """For a client that is `user`. Raises as server_context() does."""
    check_available()
    key = read_keys(path, private=False).get(user)
    if key is None:
        raise InvalidRequest(f"{path}: no key of the user {user!r}", "name one that is there: nbds://USER@HOST/...")
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_psk_client_callback(lambda _hint: (user, key))  # type: ignore[attr-defined,unused-ignore]
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    return context

"""A standby over TCP with TLS: the certificates of NBD, both ways; and who has none."""
from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

from support.changing import SMALL, made
from support.nbd_fixtures import pki  # noqa: F401
from support.standbys import PATIENCE_S, Owner, eventually

import cdp
from cdp.nbd.listeners import TcpAddress
from cdp.nbd.tls import TlsMode, TlsSettings
from cdp.standby.listener import StandbyListener
from cdp.standby.receiver import Receiver, Source


def test_over_tls(pki: Any, tmp_path: Path):  # noqa: F811
    pki = Path(pki)
    tls = TlsSettings(TlsMode.REQUIRE, str(pki / "server-cert.pem"), str(pki / "server-key.pem"),
                      str(pki / "ca-cert.pem"))
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    shutil.copy(pki / "ca-cert.pem", certificates)
    with Owner(made(tmp_path, "after"), SMALL) as owner:
        listener = StandbyListener([TcpAddress("localhost", 0)], {"v": owner.volume}, {"v": owner.standing},
                                   tls.context())
        listener.start()
        try:
            where = listener.addresses[0]
            port = int(where.rpartition(":")[2])
            owner.volume.pwrite(b"x" * 100_000 + bytes(352), 0)
            owner.volume.flush()
            said: list[str] = []
            alone = Receiver(str(tmp_path / "one"), Source.parse(f"tls://{where}", str(certificates)), "v",
                             cdp.Settings())

            def tells(text: str) -> None:
                said.append(text)
                if "tried again" in text:
                    alone.stop()
            alone.run(lambda: False, tells)         # without a certificate of its own
            assert not alone.following and said and "following" not in said[-1], said
            with socket.create_connection(("localhost", port), PATIENCE_S) as sock:    # without TLS
                sock.sendall(b"cdpstby1" + bytes(32))
                try:
                    assert not sock.recv(4096).startswith(b"cdpstby1")
                except ConnectionResetError:
                    pass
            for name in ("cert", "key"):
                shutil.copy(pki / f"client-{name}.pem", certificates)
            both = Receiver(str(tmp_path / "two"), Source.parse(f"tls://{where}", str(certificates)), "v",
                            cdp.Settings())
            both.run(lambda: True, said.append)
            assert both.following and both.position[2] == owner.volume.window().newest.seq
            eventually(lambda: not owner.standing.view()["connected"], "it is still there")     # type: ignore[index]
        finally:
            listener.close()

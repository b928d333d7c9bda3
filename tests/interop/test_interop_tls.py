"""TLS with real clients: certificates made here, nbdinfo, nbdcopy and qemu-img over nbds://, and who is turned away."""
import json

import pytest
from support.interop import MIB, need, run, sha256, world

pytestmark = pytest.mark.interop

__all__ = ["world"]

SIZE_MIB = 32
# One of RSA takes some tenths of a second.
NEW_KEY = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"


def openssl(path, *args):
    run("openssl", *args, cwd=path)


@pytest.fixture
def certificates(tmp_path):
    """A folder `pki` with what GnuTLS clients look for (ca-cert.pem, client-cert.pem, client-key.pem), `anonymous` with
    the authority alone, `stranger` with another authority, and the server's certificate for localhost."""
    need("openssl")
    pki = tmp_path / "pki"
    pki.mkdir()

    def authority(folder, name):
        openssl(folder, "req", "-x509", *NEW_KEY, "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-addext", "basicConstraints=critical,CA:TRUE",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def certificate(name, *extensions):
        (pki / f"{name}.ext").write_text("\n".join(extensions) + "\n")
        openssl(pki, "req", *NEW_KEY, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem",
                "-out", f"{name}.csr")
        openssl(pki, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
                "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}-cert.pem")

    authority(pki, "test authority")
    certificate("server", "subjectAltName=DNS:localhost,IP:127.0.0.1", "extendedKeyUsage=serverAuth")
    certificate("client", "extendedKeyUsage=clientAuth")
    for name in ("anonymous", "stranger"):
        (tmp_path / name).mkdir()
    (tmp_path / "anonymous" / "ca-cert.pem").write_bytes((pki / "ca-cert.pem").read_bytes())
    authority(tmp_path / "stranger", "another authority")
    return tmp_path


def serve(world, mode, *args):
    world.cdp("create", "web", "--size", f"{SIZE_MIB}M")
    world.serve("web", "--tcp", "localhost:0", "--tls", mode, "--tls-cert", "pki/server-cert.pem",
                "--tls-key", "pki/server-key.pem", *args)
    uri = next(uri for uri in world.printed if uri.startswith("nbds://"))
    host_port = uri.removeprefix("nbds://").partition("/")[0]
    return host_port


def nbds(world, host_port, export, folder):
    return f"nbds://{host_port}/{export}?tls-certificates={world.path / folder}"


def test_nbdinfo(world, certificates):
    need("nbdinfo")
    host_port = serve(world, "require")
    got = json.loads(run("nbdinfo", "--json", nbds(world, host_port, "web", "anonymous")).stdout)
    assert got["TLS"] is True and got["exports"][0]["export-size"] == SIZE_MIB * MIB
    got = json.loads(run("nbdinfo", "--json", "--list", nbds(world, host_port, "", "anonymous")).stdout)
    assert [one["export-name"] for one in got["exports"]] == ["web"]


def test_copies_moments_and_images(world, certificates):
    need("nbdcopy", "mke2fs")
    image = world.ext4("disk.img", SIZE_MIB, files_bytes=8 * MIB)
    host_port = serve(world, "require")
    run("nbdcopy", "--flush", "--connections=4", image, nbds(world, host_port, "web", "anonymous"))
    seq = world.json("window", "web")["newest"]["seq"]
    world.cdp("image", "create", "web", "fork")
    out = world.path / "out.img"
    for export in ("web", f"web@#{seq}".replace("#", "%23"), "web/fork"):
        run("nbdcopy", "--connections=4", nbds(world, host_port, export, "anonymous"), out)
        assert sha256(out) == sha256(image), export
        out.unlink()
    world.stop()


def test_qemu_img(world, certificates):
    need("qemu-img", "qemu-io")
    host_port = serve(world, "require")
    host, port = host_port.rsplit(":", 1)
    creds = f"tls-creds-x509,id=tls0,endpoint=client,dir={world.path / 'anonymous'}"
    options = f"driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={host},file.server.port={port}," \
              "file.export=web,file.tls-creds=tls0"
    done = run("qemu-io", "--object", creds, "--image-opts", "-c", "write -P 5 1M 8M", "-c", "read -P 5 1M 8M", options)
    assert "Pattern verification failed" not in done.stdout, done.stdout
    got = json.loads(run("qemu-img", "info", "--output=json", "--object", creds, "--image-opts", options).stdout)
    assert got["virtual-size"] == SIZE_MIB * MIB


def test_who_is_turned_away(world, certificates):
    need("nbdinfo")
    host_port = serve(world, "require")
    plain = f"nbd://{host_port}/web"
    for uri in (plain, nbds(world, host_port, "web", "stranger")):
        assert run("nbdinfo", "--size", uri, status=None).returncode != 0, uri
    run("nbdinfo", "--size", nbds(world, host_port, "web", "anonymous"))
    world.stop()


def test_offered_but_not_required(world, certificates):
    need("nbdinfo")
    host_port = serve(world, "on")
    plain = json.loads(run("nbdinfo", "--json", f"nbd://{host_port}/web").stdout)
    assert plain["TLS"] is False
    assert json.loads(run("nbdinfo", "--json", nbds(world, host_port, "web", "anonymous")).stdout)["TLS"] is True


def test_client_certificates(world, certificates):
    need("nbdinfo")
    host_port = serve(world, "require", "--tls-ca", "pki/ca-cert.pem")
    run("nbdinfo", "--size", nbds(world, host_port, "web", "pki"))
    for folder in ("anonymous", "stranger"):
        assert run("nbdinfo", "--size", nbds(world, host_port, "web", folder), status=None).returncode != 0, folder

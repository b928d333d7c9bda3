"""The Debian package, the wheel and the container image of this checkout, each built, installed where nothing else is,
and used for the README's main job (contrib/main-job.sh). `make packages` runs this."""
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interop import need, run

ROOT = Path(__file__).parents[2]
MAIN_JOB = ROOT / "contrib/main-job.sh"
WANTED = "CDP_TRY_PACKAGES"
PASSED_ON = ("HOME", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
pytestmark = [pytest.mark.long, pytest.mark.interop, pytest.mark.timeout(3600), pytest.mark.xdist_group("packages"),
              pytest.mark.skipif(WANTED not in os.environ,
                                 reason="takes half an hour and 4 GB of disk: only when asked for")]


def clean(*argv: object, status: int = 0) -> str:
    """What a program says that knows nothing of this checkout, nor of the environment that tests it."""
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("PIP_")}
    done = subprocess.run([str(arg) for arg in argv], env={**known, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3000,
                          check=False)
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """Of Debian; building it makes the wheel, too."""
    need("dpkg-buildpackage", "dh")
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs Debian's own python3")
    clean(ROOT / "contrib/debian/build.sh")
    found, = (ROOT / "build/deb").glob("cdp_*.deb")
    return found


@pytest.fixture(scope="module")
def wheel(package: Path) -> Path:
    found, = (package.parent / "source/debian/built").glob("cdp-*.whl")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, for sockets; others may enter it."""
    with tempfile.TemporaryDirectory(prefix="cdp-p") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def debian() -> Iterator[Path]:
    """A Debian of the same release, with nothing but what every one has."""
    need("debootstrap", "chroot")
    if os.geteuid():
        pytest.skip("needs root")
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    home = Path(tempfile.mkdtemp(prefix="cdp-d", dir="/var/tmp"))
    try:
        made = run("debootstrap", "--variant=minbase", release["VERSION_CODENAME"], home / "root", status=None,
                   timeout_s=1800)
        if made.returncode:
            pytest.skip(f"debootstrap gets no Debian here: {(made.stdout + made.stderr)[-300:]}")
        policy = home / "root/usr/sbin/policy-rc.d"     # nothing is started
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        yield home / "root"
    finally:
        shutil.rmtree(home)


def test_the_wheel(wheel: Path, folder: Path):
    need("qemu-io")
    clean("/usr/bin/python3", "-m", "venv", folder / "venv")
    clean(folder / "venv/bin/pip", "install", "-q", wheel)
    (folder / "w").mkdir()
    assert clean(MAIN_JOB, folder / "w", folder / "w", folder / "venv/bin/cdp").endswith("the main job is done\n")


def test_the_debian_package(package: Path, debian: Path, folder: Path):
    need("qemu-io")
    root = folder / "root"
    clean("cp", "-a", debian, root)
    inside = ("chroot", root)
    shutil.copy(package, root / "tmp")
    (root / "w").mkdir()
    clean("mount", "-t", "proc", "proc", root / "proc")
    try:
        clean(*inside, "apt-get", "install", "-y", "--no-install-recommends", f"/tmp/{package.name}")
        assert clean(MAIN_JOB, root / "w", "/w", *inside, "cdp").endswith("the main job is done\n")
        clean(*inside, "cdp", "create", "/var/lib/cdp/web", "--size", "1M")
        clean(*inside, "apt-get", "install", "-y", "--reinstall", f"/tmp/{package.name}")
        clean(*inside, "apt-get", "purge", "-y", "cdp")
        assert not (root / "usr/lib/cdp").exists() and not (root / "usr/bin/cdp").exists()
        assert (root / "var/lib/cdp/web/volume.json").exists()
    finally:
        clean("umount", root / "proc")


def test_the_image(wheel: Path, debian: Path, folder: Path):
    """As the user that it has, in a container of buildah with the isolation that needs no runtime."""
    need("qemu-io", "buildah")
    if os.geteuid():
        pytest.skip("needs root")
    clean("env", f"WHEEL={wheel}", ROOT / "contrib/container/build.sh", debian)
    place = ROOT / "build/container"
    buildah = ("buildah", "--root", place / "storage", "--runroot", place / "run", "--storage-driver", "vfs")
    container = clean(*buildah, "from", "localhost/cdp").splitlines()[-1]
    try:
        (folder / "w").mkdir()
        os.chown(folder / "w", 10809, 10809)
        inside = (*buildah, "run", "--isolation", "chroot", "--user", "cdp", "-v", f"{folder}/w:/data", container, "--")
        assert clean(*inside, "id", "-un") == "cdp\n"
        assert clean(MAIN_JOB, folder / "w", "/data", *inside, "/usr/bin/cdp").endswith("the main job is done\n")
    finally:
        clean(*buildah, "rm", container)

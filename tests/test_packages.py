"""What packages are made of is in step with the project; the main job that is tried with each of them runs."""
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import interop

from cdp.cli.exits import OK

ROOT = Path(__file__).parent.parent
CONTRIB = ROOT / "contrib"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def number(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_constraints_have_a_version_of_all_that_is_needed():
    lines = [line for line in (CONTRIB / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for requirement in [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]:
        name, least = requirement.lower().replace("_", "-").split(">=")
        assert number(pinned[name]) >= number(least), requirement


def test_the_package_has_the_version_of_the_project():
    first = (CONTRIB / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"cdp ({PYPROJECT['project']['version']}) ")


@pytest.mark.parametrize("path", [*CONTRIB.rglob("*.sh"), CONTRIB / "debian/cdp.postinst"], ids=lambda path: path.name)
def test_scripts_can_be_read(path):
    """By their own interpreter, which does not run them."""
    if path.read_text().startswith("#!/usr/lib/cdp/bin/python3"):
        compile(path.read_text(), path.name, "exec")
    else:
        assert subprocess.run(["bash", "-n", path], check=False).returncode == OK


def test_the_files_that_packages_take_exist():
    lists = [CONTRIB / "debian" / name for name in ("cdp.install", "cdp.docs", "cdp.examples")]
    patterns = [line.split()[0] for path in lists for line in path.read_text().splitlines()]
    container = (CONTRIB / "container/Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", container, re.MULTILINE):
        patterns += [word for word in line.split() if not word.startswith("--")]
    assert len(patterns) > 10
    for pattern in patterns:
        assert list(ROOT.glob(pattern)), pattern


def test_the_example_of_settings_is_valid(tmp_path):
    """Also with all that it shows, except for the certificates, which are not here."""
    text = (CONTRIB / "cdp.toml").read_text()
    shown = re.sub(r'(?m)^#(\w+ = )', r"\1", text)
    assert text != shown
    (tmp_path / "all.toml").write_text(shown)
    for path in (CONTRIB / "cdp.toml", tmp_path / "all.toml"):
        assert interop.cdp_done("config", "show", "--config", path).stdout


@pytest.mark.long
@pytest.mark.interop
def test_the_main_job_of_this_checkout(tmp_path):
    interop.need("qemu-io")
    done = interop.run("bash", CONTRIB / "main-job.sh", tmp_path, tmp_path, sys.executable, "-m", "cdp")
    assert done.stdout.endswith("the main job is done\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.interop
def test_the_main_job_notices_what_is_wrong(tmp_path):
    """A cdp whose restore does nothing."""
    interop.need("qemu-io")
    (tmp_path / "cdp").write_text(f'#!/bin/bash\n[ "$1" = restore ] || exec {sys.executable} -m cdp "$@"\n')
    (tmp_path / "cdp").chmod(0o755)
    done = interop.run("bash", CONTRIB / "main-job.sh", tmp_path, tmp_path, tmp_path / "cdp", status=None)
    assert done.returncode != 0 and "Pattern verification failed" in done.stderr

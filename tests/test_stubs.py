"""The stubs of cdpcore say what the extension modules are (mypy's stubtest compares them at run time)."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdpcore

pytestmark = pytest.mark.lint

CORE = Path(cdpcore.__file__).parent
# What Cython itself adds to a module that exports C functions.
ALLOWED = r".*__pyx_capi__"


@pytest.mark.timeout(240)
def test_stubs_match(tmp_path: Path):
    assert {p.with_suffix("") for p in CORE.rglob("*.pyx")} <= {p.with_suffix("") for p in CORE.rglob("*.pyi")}
    (tmp_path / "allowed").write_text(ALLOWED + "\n")
    # From a checkout the sources must be found; from site-packages nothing there may be taken for the user's own
    # modules.
    source = {"MYPYPATH": str(CORE.parent), "PYTHONPATH": str(CORE.parent)} if CORE.parent.name == "src" else {}
    env = {**os.environ, **source}
    done = subprocess.run([sys.executable, "-m", "mypy.stubtest", "cdpcore", "--ignore-disjoint-bases",
                           "--allowlist", str(tmp_path / "allowed"), "--ignore-unused-allowlist"],
                          capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

"""The transcripts in the documents are what the commands print: every ```console block of a page is run, in order, in a
directory of the page's own.

What differs from run to run (times, ages, process ids, the directory) is taken out before comparing. To write the pages
anew from what the commands print now: PYTHONPATH=tests python tests/cli/test_cli_docs.py
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.transcripts import BLOCK, settled

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
# The others need a kernel, a database, a machine: tests/interop/test_guide.py.
PAGES = [page for page in PAGES if "```console\n" in page.read_text() and page.name not in ("guide.md", "recipes.md")]
TOOLS = ("bash", "head", "tr", "cmp", "curl", "qemu-io", "nbdinfo", "ls")
RUNTIME = "/run/user/1000"
HOME = "/data"
SHELLS_OWN = re.compile(r"[|&;<>()$`\\*?\[\]{}~!]|\s#")     # what a shell would not pass on as it is


class Shell:
    """Runs the lines of a page as a user would, in a directory of its own."""

    def __init__(self, directory: Path):
        self.home, self.runtime, bin_ = directory / "data", directory / "run", directory / "bin"
        for path in (self.home, self.runtime, bin_):
            path.mkdir()
        (bin_ / "cdp").write_text(f'#!/bin/sh\nexec {sys.executable} -m cdp "$@"\n')
        (bin_ / "cdp").chmod(0o755)
        self.env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(self.runtime),
                    "TZ": "UTC", "CDP_LOG_LEVEL": "warning"}
        self.env.pop("CDP_CONFIG", None)
        self.server: subprocess.Popen | None = None

    def run(self, line: str) -> str:
        """What a line prints, both streams, with the directories named as on the page."""
        line = line.replace(RUNTIME, str(self.runtime))
        if line.startswith("cdp serve") and line.endswith("&"):
            out = self._serve(line.removesuffix("&"))
        elif line == "kill %1":
            out = self.stop()
        else:
            result = subprocess.run(self._argv(line), cwd=self.home, env=self.env, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
            out = result.stdout
        out = out.replace(str(self.runtime), RUNTIME).replace(str(self.home), HOME)
        assert not out or out.endswith("\n"), f"{line}: what it prints does not end with a line end"
        return out

    @staticmethod
    def _argv(line: str) -> list[str]:
        """What runs a line: a shell, if it is more than a command of ours and its words."""
        ours = line.startswith("cdp ") and not SHELLS_OWN.search(line)
        return [sys.executable, "-m", "cdp", *shlex.split(line)[1:]] if ours else ["bash", "-c", line]

    def _serve(self, line: str) -> str:
        self.server = subprocess.Popen(self._argv(line), cwd=self.home, env=self.env,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out = []
        for printed in self.server.stdout:
            out.append(printed)
            if "ready" in printed or "error" in printed:
                break
        return "".join(out)

    def stop(self) -> str:
        if self.server is None:
            return ""
        self.server.terminate()
        out, _ = self.server.communicate(timeout=60)
        self.server = None
        return out


def replayed(page: str, shell: Shell) -> str:
    """The page with what its commands print now."""

    def block(found: re.Match) -> str:
        lines = [line.removeprefix("$ ") for line in found[2].splitlines() if line.startswith("$ ")]
        return found[1] + "".join(f"$ {line}\n{shell.run(line)}" for line in lines) + found[3]

    return BLOCK.sub(block, page)


def test_there_are_transcripts():
    assert {page.name for page in PAGES} >= {"README.md", "cli.md", "settings.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_what_the_commands_print(page: Path, tmp_path: Path):
    text = page.read_text()
    assert text.count("console\n") == len(BLOCK.findall(text)), "an indented transcript would not be run"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    shell = Shell(tmp_path)
    try:
        now = replayed(text, shell)
    finally:
        shell.stop()
    assert settled(now) == settled(text), "run: PYTHONPATH=tests python tests/cli/test_cli_docs.py"


if __name__ == "__main__":
    for one in PAGES:
        with tempfile.TemporaryDirectory() as scratch:
            one.write_text(replayed(one.read_text(), Shell(Path(scratch))))

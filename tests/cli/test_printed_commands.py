"""Commands that cdp prints for pasting are taken by a shell as they were meant, whatever the volume is called."""
import re
import shlex

import pytest
from support.interop import cdp_done, world  # noqa: F401

NAME = "sp ace's $HOME"


def printed(world, *args, status=0):  # noqa: F811
    """The `cdp` commands in what a command prints, as a shell takes them apart."""
    done = cdp_done(*args, cwd=world.path, status=status)
    text = done.stdout + done.stderr
    found = re.findall(r"(?:serve it:  |to take this back: |to have it back: |to forget its history: )(.*)", text)
    assert found, text
    return [shlex.split(line) for line in found]


def test_names_with_blanks(world):  # noqa: F811
    (world.path / "raw").write_bytes(bytes(65536))
    assert printed(world, "create", NAME, "--size", "1M") == [["cdp", "serve", NAME]]
    assert printed(world, "restore", f"{NAME}@#0") == [["cdp", "undo", NAME]]
    assert printed(world, "undo", NAME) == [["cdp", "restore", f"{NAME}@#2"]]
    assert printed(world, "import", "raw", NAME) == [["cdp", "restore", f"{NAME}@#4"]]
    world.cdp("bookmark", NAME, "b")
    (back,) = printed(world, "bookmark", NAME, "b", "--delete")
    assert back[:4] == ["cdp", "bookmark", NAME, "b"]
    cdp_done(*back[1:], cwd=world.path)
    (world.path / "disk").write_bytes(bytes(65536))
    world.cdp("create", "v v", "--mode", "before", "--base", "disk")
    assert printed(world, "detach", "v v") == [["rm", "-r", "v v"]]


@pytest.mark.parametrize("args", [("info", "no such"), ("create", "no such/x", "--size", "1M"), ("create", NAME,
                                  "--size", "1M"), ("restore", NAME), ("restore", f"{NAME}@")])
def test_hints(world, args):  # noqa: F811
    world.cdp("create", NAME, "--size", "1M")
    done = cdp_done(*args, cwd=world.path, status=None)
    assert done.returncode in (2, 3)
    assert "'no such" in done.stderr or shlex.quote(NAME) in done.stderr or shlex.quote(f"{NAME}@POINT") in done.stderr

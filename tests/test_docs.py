"""The documents stay true where a machine can tell: links, paths and module names exist, lines have one width, the
README's Python runs. (Transcripts: tests/cli/test_cli_docs.py. Bounds, examples, reference: the tests of what they are
about.)"""
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md"])
WIDTH = 120
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
PRODUCED = re.compile(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
FILE = re.compile(r"(?<![\w./-])(?:src|tests|docs|bench|\.ci)/[\w./-]*\w|(?<![\w./-])[\w/]+\.(?:pyx|pxd|pyi|[ch])\b")
MODULE = re.compile(r"(?<![\w./:-])cdp(?:core)?(?:\.[A-Za-z_]\w*)+")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def files() -> list[str]:
    return [f"/{path.relative_to(ROOT)}" for folder in ("src", "tests", "docs", "bench")
            for path in (ROOT / folder).rglob("*")]


ALL = files()
FOREIGN = {"blktrace_api.h"}      # of the Linux kernel
CAPSULES = {"cdpcore.target", "cdpcore.os", "cdpcore.map"}
ENTRY_POINTS = {"cdp.platforms"}


def exists(path: str) -> bool:
    """A path from the root, or the end of one below src, as in `index/run.c`."""
    return (ROOT / path).exists() or any(name.endswith(f"/{path}") for name in ALL)


def is_name(dotted: str) -> bool:
    """A module, or what a module defines or imports: a class, function or constant."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT / "src" / Path(*parts[:n])
        found = [p for p in (path / "__init__.py", path.with_suffix(".py"), path.with_suffix(".pyx")) if p.is_file()]
        if found:
            text = found[0].read_text()
            return n == len(parts) or re.search(rf"\b{parts[n]}\b", text) is not None
    return False


def wrong_in(text: str) -> Iterator[str]:
    for path in FILE.findall(text):
        if path not in FOREIGN and not exists(path):
            yield f"no file {path}"
    for dotted in MODULE.findall(text):
        if (
            dotted not in CAPSULES | ENTRY_POINTS
            and not re.search(r"\.(md|toml|log|json|img)$", dotted)
            and not is_name(dotted)
        ):
            yield f"no module or name {dotted}"


@each_page
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text()):
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), f"{page.name}: {link}"


@each_page
def test_files_and_modules_that_are_named_exist(page: Path):
    if page.name != "CHANGELOG.md":     # tells of what was
        assert not list(wrong_in(page.read_text()))


@pytest.mark.parametrize("text", ["`src/cdp/no/such.py`", "see `index/no_run.c`", "in cdp.volume.no_module",
                                  "cdpcore.log.log.Nothing"])
def test_a_wrong_name_is_found(text: str):
    assert list(wrong_in(text))
    assert not list(wrong_in("`src/cdpcore/base/target.h`, `index/run.c`, cdpcore.index.view.View, cdp.volume"))


@each_page
def test_prose_has_one_width(page: Path):
    """But for rows of tables, which cannot be broken, and what is fenced or produced by a program."""
    text = PRODUCED.sub("", FENCED.sub("", page.read_text()))
    for line in text.splitlines():
        assert line.startswith("|") or len(line) <= WIDTH, line
        assert line == line.rstrip() and "\t" not in line, line


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_what_a_page_says_runs_as_python(page: str, tmp_path: Path):
    """Its examples, one after the other; what is produced there are signatures."""
    blocks = re.findall(r"```python\n(.*?)```", PRODUCED.sub("", (ROOT / page).read_text()), re.DOTALL)
    assert blocks
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, check=True)


@each_page
def test_python_of_the_documents_is_python(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(block)


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for name in pages:
        text = (folder / name).read_text()
        assert f"[{name[:4]}]({name})" in index
        assert text.startswith(f"# {name[:4]}: ")
        for part in ("## Context", "## Choice", "## What it cost"):
            assert part in text, f"{name}: {part}"


PACKAGES = [path.parent for package in ("cdp", "cdpcore")
            for path in sorted((ROOT / "src" / package).glob("*/__init__.py"))]
UNLISTED = {"cli", "conformance", "demo", "platform", "bench"}      # a file a command, a subject, a platform


LISTED = re.compile(r"^    ([a-z_]+(?:, [a-z_]+)*)  +\S", re.MULTILINE)     # name, name   what they are
BESIDE = re.compile(r"; ([a-z_]+): ")                                     # ...; name: what it is


@pytest.mark.parametrize("package", [path for path in PACKAGES if path.name not in UNLISTED],
                         ids=lambda p: f"{p.parent.name}.{p.name}")
def test_a_package_names_its_modules(package: Path):
    """A new reader finds the file by the package's docstring."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or ""
    modules = {path.stem for path in package.iterdir() if path.suffix in (".py", ".pyx")} - {"__init__"}
    missing = {name for name in modules if not re.search(rf"\b{name}\b", text)}
    assert not missing, f"{package.name}/__init__.py does not name {', '.join(sorted(missing))}"
    listed = {name for names in LISTED.findall(text) for name in names.split(", ")} | set(BESIDE.findall(text))
    assert modules and listed <= modules, f"{package.name}/__init__.py lists {', '.join(sorted(listed - modules))}"
    assert listed, f"{package.name}/__init__.py has no list of modules"


NAMED_TEST = re.compile(r"\[(test_\w+)\]\(([^)\s]+)\)")
GUARANTEES = ROOT / "docs" / "guarantees.md"


def missing_tests(text: str) -> Iterator[str]:
    """What a page says is proven by a test that is not there."""
    for name, link in NAMED_TEST.findall(text):
        path = GUARANTEES.parent / link
        tree = ast.parse(path.read_text()) if path.is_file() and path.name.startswith("test_") else ast.Module([], [])
        if name not in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}:
            yield f"{link}::{name}"
    named = {name for name, _ in NAMED_TEST.findall(text)}
    yield from sorted(set(re.findall(r"(?<![/\w])test_\w+\b(?!\.py)", FENCED.sub("", text))) - named)


@pytest.mark.parametrize("page", [GUARANTEES, ROOT / "docs" / "testing.md"], ids=lambda page: page.name)
def test_each_test_that_proves_something_exists(page: Path):
    assert not list(missing_tests(page.read_text()))


def test_each_guarantee_has_a_test_and_a_limit():
    hazards = GUARANTEES.read_text().split("\n## ")[1:]
    assert len(hazards) == 11
    for hazard in hazards:
        title = hazard.partition("\n")[0]
        rows = re.findall(r"^\| (?!promised)(?!---).*$", hazard, re.MULTILINE)
        assert rows and all(NAMED_TEST.search(row) for row in rows), f"{title}: a promise without a test"
        assert "\nNot promised: " in hazard, f"{title} does not say what is not promised"


@pytest.mark.parametrize("text", ["[test_no_such](../tests/sim/test_faults.py)", "[test_full_disk](../tests/no.py)",
                                  "[KINDS](../tests/sim/test_faults.py) and test_alone"])
def test_a_test_that_is_not_there_is_found(text: str):
    assert list(missing_tests(text))
    assert not list(missing_tests("[test_full_disk](../tests/sim/test_faults.py)"))

"""Who may import whom. A package may import what its row names, and itself; each C header of ours has one .pxd."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

SRC = Path(__file__).parent.parent / "src"

# cdpcore: cimports, Python imports and C includes. Bottom up: a row names only rows above it, so there is no circle.
CORE = {
    "base": "",
    "system": "base",
    "index": "base system",
    "log": "base system index",
    "volume": "base system index log",
    "inplace": "base system index log volume",
    "nbd": "base",
    "channel": "base system nbd",     # system: memory that two processes share
    "trace": "base nbd",              # nbd: its driver of NBD servers
    "bench": "base system",
    "text": "base",
}

# cdp, the shell, which may use all of cdpcore. "cdp" is `import cdp`, the public API; settings is a
# module.
SHELL = {
    "text": "",
    "files": "",
    "moments": "text",
    "views": "",
    "ipc": "text",
    "settings": "text",
    "nbd": "ipc",
    "trace": "text",
    "store": "text moments settings",
    "volume": "text files moments settings store",
    "cdp": "moments settings volume",
    "check": "text moments settings store volume",
    "capture": "text moments views store trace cdp",
    "replay": "text moments settings nbd trace store volume cdp",
    "platform": "text ipc settings nbd cdp",
    "service": "text files moments views ipc settings nbd store volume cdp check capture",
    "archive": "text moments views settings store check service",
    "standby": "text views settings nbd store cdp check",
    "bench": "text views nbd trace cdp service",
    "serve": "text files moments views ipc settings nbd store cdp capture platform service standby",
    "ha": "views ipc settings nbd store cdp service serve",
    "conformance": "nbd cdp platform",
    "cli": "text files moments views ipc settings nbd trace store volume cdp check replay service archive "
           "standby bench serve ha conformance",
    "demo": "nbd cdp service cli",
    "__main__": "cli",
}


# What the public API hands out and lies above it: `import cdp` loads it by name, when it is first used.
HANDED_OUT = {"cdp": {"service"}}


def code(path: Path) -> str:
    """A file without its comments and docstrings."""
    c_file = path.suffix in (".c", ".h")
    return re.sub(r"/\*.*?\*/|//[^\n]*" if c_file else r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)


def imports_of_cython(text: str) -> set[str]:
    """The packages of cdpcore that a .pyx, .pxd, .pyi, .c or .h uses; "cdp" for the shell, "cdpcore" where it names
    none."""
    used = set(re.findall(r'^\s*(?:#include|cdef extern from)\s+"(\w+)/', text, re.MULTILINE))
    for module in re.findall(r"^\s*(?:from|cimport|import)\s+(cdp(?:core)?\b[\w.]*)", text, re.MULTILINE):
        root, _, rest = module.partition(".")
        used.add(rest.partition(".")[0] or "cdpcore" if root == "cdpcore" else "cdp")
    return used


def core_files() -> Iterator[Path]:
    for path in sorted((SRC / "cdpcore").rglob("*")):
        if path.suffix in (".pyx", ".pxd", ".pyi", ".py", ".c", ".h"):
            yield path


def imports_of_python(text: str) -> set[str]:
    """The packages and modules of cdp that a file imports, wherever in it; "cdp" for the public API."""
    names = list[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name == "cdp" or name.startswith("cdp.")]
    return {part[1] if len(part) > 1 and part[1] in SHELL else "cdp" for part in parts}


def package_of(path: Path) -> str:
    """The row of a file of the shell."""
    first = path.relative_to(SRC / "cdp").parts[0]
    return "cdp" if first == "__init__.py" else first.removesuffix(".py")


def wrong(table: dict[str, str], package: str, used: set[str]) -> set[str]:
    return used - {package} - set(table[package].split()) - HANDED_OUT.get(package, set())


@pytest.mark.parametrize("table", [CORE, SHELL], ids=["cdpcore", "cdp"])
def test_the_table_has_no_circle(table: dict[str, str]):
    above: set[str] = set()
    for package, row in table.items():
        assert set(row.split()) <= above, f"{package} may import only rows above it"
        above.add(package)


ROW = re.compile(r"^\| `(cdp(?:core)?)(?:/(\w+)(?:\.py)?)?` \|.*\|([^|]*)\|$", re.MULTILINE)


def rows_of(text: str, root: str) -> list[tuple[str, list[str]]]:
    """Package and what it may import, as a document's table says."""
    return [(name or "cdp", row.replace(",", " ").split()) for of, name, row in ROW.findall(text) if of == root]


@pytest.mark.parametrize("table, root", [(CORE, "cdpcore"), (SHELL, "cdp")], ids=["cdpcore", "cdp"])
def test_the_architecture_has_the_same_table(table: dict[str, str], root: str):
    text = (SRC.parent / "docs" / "architecture.md").read_text()
    assert rows_of(text, root) == [(package, row.split()) for package, row in table.items()]


def test_a_row_of_a_document_is_read():
    text = "| package | holds | may use |\n|---|---|---|\n| `cdp` | all | text |\n| `cdp/ipc` | a `b` | |\n" \
           "| `cdp/views.py` | c | ipc, text |\n| `cdpcore/log` | d | base |\n"
    assert rows_of(text, "cdp") == [("cdp", ["text"]), ("ipc", []), ("views", ["ipc", "text"])]
    assert rows_of(text, "cdpcore") == [("log", ["base"])]


def test_every_package_of_the_core_has_a_row():
    assert {p.parent.name for p in (SRC / "cdpcore").glob("*/__init__.py")} == set(CORE)


@pytest.mark.parametrize("path", [p for p in core_files() if p.parent.name != "cdpcore"],
                         ids=lambda p: str(p.relative_to(SRC)))
def test_the_core_imports_downwards(path: Path):
    package = path.relative_to(SRC / "cdpcore").parts[0]
    assert not wrong(CORE, package, imports_of_cython(code(path)))


@pytest.mark.parametrize("package, line", [
    ("index", "from cdpcore.volume.core cimport VolumeCore"),
    ("index", "    from cdpcore.log.log import Log"),
    ("base", "cimport cdpcore.system.os"),
    ("trace", '#include "system/os.h"'),
    ("nbd", 'cdef extern from "log/frame.h" nogil:'),
    ("volume", "from cdp.store.catalog import Catalog"),
    ("log", "import cdp"),
    ("log", "import cdpcore"),
])
def test_a_wrong_import_is_found(package: str, line: str):
    assert wrong(CORE, package, imports_of_cython(f"import os\n{line}\n"))


HEADER = re.compile(r'^\s*cdef extern from\s+"(\w+/\w+\.h)"', re.MULTILINE)


def test_a_header_is_declared_in_one_pxd_of_its_package():
    declared: dict[str, list[str]] = {}
    for path in core_files():
        if path.suffix in (".pyx", ".pxd"):
            for header in HEADER.findall(code(path)):
                assert path.suffix == ".pxd", f"{path.name} declares {header}: cimport it from its .pxd"
                declared.setdefault(header, []).append(str(path.relative_to(SRC / "cdpcore")))
    for header, places in declared.items():
        assert (SRC / "cdpcore" / header).exists() and len(places) == 1, f"{header} is declared in {places}"
        assert Path(header).parent == Path(places[0]).parent, f"{header} is declared in {places[0]}"
    assert len(declared) > 20


def test_every_package_of_the_shell_has_a_row():
    assert {package_of(path) for path in (SRC / "cdp").rglob("*.py")} == set(SHELL)


@pytest.mark.parametrize("path", sorted((SRC / "cdp").rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_the_shell_imports_downwards(path: Path):
    assert not wrong(SHELL, package_of(path), imports_of_python(path.read_text()))


@pytest.mark.parametrize("package, line", [
    ("store", "from cdp.volume.volume import Volume"),
    ("store", "import cdp"),
    ("ipc", "from cdp import settings"),
    ("text", "def f():\n    from cdp.moments import points"),
    ("service", "import cdp.serve.server"),
])
def test_a_wrong_import_of_the_shell_is_found(package: str, line: str):
    assert wrong(SHELL, package, imports_of_python(f"import os\n{line}\n"))

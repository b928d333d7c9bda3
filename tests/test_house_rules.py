"""Rules that are kept by a test, not by memory: sizes, banned calls, layers, no textual includes, docs in step."""
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

ROOT = Path(__file__).parent.parent
PROSE = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench/README.md"]
SRC = ROOT / "src"
CODE = [p for ext in ("*.py", "*.pyx", "*.pxd", "*.c", "*.h") for p in [*SRC.rglob(ext), *(ROOT / "bench").rglob(ext)]]
LINUX_ONLY = re.compile(
    r"\b(O_DIRECT|fallocate|FALLOC_FL_\w+|memfd_create|MADV_HUGEPAGE|eventfd|io_uring\w*|epoll_\w+|BLKGETSIZE64|"
    r"getrandom|renameat2|copy_file_range|sync_file_range)\b\s*\(?"
)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_code():
    assert len(CODE) > 60


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_file_holds_one_idea(path: Path):
    assert len(lines(path)) <= 650, "two ideas in one file?"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_no_wide_lines_tabs_or_trailing_blanks(path: Path):
    for number, line in enumerate(lines(path), 1):
        assert len(line) <= 120 and "\t" not in line and line == line.rstrip(), f"{path}:{number}"


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_no_wide_prose(path: Path):
    transcript = False      # what a program printed is as wide as it was; a row of a table cannot be broken
    for number, line in enumerate(lines(path), 1):
        transcript ^= line.lstrip().startswith("```")
        assert transcript or len(line) <= 120 or line.startswith("|"), f"{path}:{number}"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_every_file_says_what_it_is_for(path: Path):
    text = path.read_text().lstrip()
    if path.suffix in (".py", ".pyx", ".pxd") and text and path.name != "__main__.py":
        assert re.match(r'(#.*\n)*\s*(r?""")', text), "a module opens with its docstring"


def test_every_test_file_has_a_name_of_its_own():
    """Else pytest collects one of two, and only in a run of both folders."""
    paths = [*(ROOT / "tests").rglob("test_*.py")]
    assert len({path.name for path in paths}) == len(paths) > 100


@pytest.mark.parametrize("path", [p for p in CODE if p.suffix in (".pyx", ".pxd")], ids=name)
def test_no_textual_includes(path: Path):
    assert not re.search(r"^\s*include\s+['\"]", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", [p for p in CODE if "cdpcore" in p.parts
                                  and p.name not in ("os_posix.c", "os_shared_memory.c", "io_uring.c")], ids=name)
def test_linux_only_calls_are_in_the_os_table(path: Path):
    code = re.sub(r"/\*.*?\*/|\"\"\".*?\"\"\"|//[^\n]*|#[^\n]*", "", path.read_text(), flags=re.DOTALL)
    assert not LINUX_ONLY.search(code)


@pytest.mark.parametrize("path", [p for p in CODE if "cdpcore" in p.parts], ids=name)
def test_the_core_knows_nothing_of_the_shell(path: Path):
    assert not re.search(r"^\s*(?:from|import)\s+cdp\b(?!core)", path.read_text(), re.MULTILINE)


ENGINE_SHELL = [p for package in ("moments", "store", "volume") for p in (SRC / "cdp" / package).glob("*.py")]


@pytest.mark.parametrize("path", ENGINE_SHELL, ids=name)
def test_the_engine_asks_the_os_table_for_the_time(path: Path):
    """A volume's time is the OS table's; the wall clock taken elsewhere would disagree with it in the simulator."""
    text = path.read_text()
    assert not re.search(r"\btime\.time(?:_ns)?\(|datetime\.(?:now|utcnow)\(|\brandom\b(?!/boot_id)", text)


def test_architecture_names_every_package():
    text = (ROOT / "docs/architecture.md").read_text()
    for path in [*(SRC / "cdpcore").glob("*/__init__.py"), *(SRC / "cdp").glob("*/__init__.py")]:
        package = str(path.parent.relative_to(SRC))
        assert package in text, f"docs/architecture.md does not say what {package} is for"


def test_public_surface_fits_on_a_screen():
    import cdp
    assert len(cdp.__all__) <= 32
    for exported in cdp.__all__:
        assert getattr(cdp, exported).__doc__, exported

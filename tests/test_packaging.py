"""What is imported is declared in pyproject.toml, and the main job needs nothing of the extras."""
import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from support import interop
from support.writelog import WriteLog

from cdp.cli.extras import EXTRA_OF

pytestmark = pytest.mark.cold

ROOT = Path(__file__).parent.parent
PROJECT_FILE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PROJECT_FILE["project"]
OURS = {"cdp", "cdpcore"}
ONLY_TRACES = {"trace", "replay"}       # the packages of cdp that may import what an extra brings
NOT_THE_PROGRAM = {"conformance/test_rules.py", "conformance/pytest_plugin.py"}     # run by pytest, which brings itself
# And these modules, when they are asked for a format, or for object storage.
WITH_EXTRA = {"cli/activity_plot.py", "cli/record_writers.py", "bench/report.py", "archive/remote.py"}

BARE = {*EXTRA_OF, "rich", "pyarrow", "pandas"}

# The command line with the extras hidden, and rich, which was needed once.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from {module} import main
sys.argv[0] = "cdp"
"""
ONE = "main()"
# Lines of standard input, each a command: a start takes longer than most commands.
MANY = """
for line in sys.stdin:
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""


def names_of(requirements):
    """Distribution names, as importlib.metadata compares them."""
    return {re.match(r"[\w-]+", text)[0].lower().replace("_", "-") for text in requirements
            if not text.startswith("cdp[")}


def imports():
    """(file below src/cdp, top-level package) of every import of something that is neither ours nor Python's."""
    for path in sorted((ROOT / "src/cdp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
            for top in {name.partition(".")[0] for name in names} - OURS - sys.stdlib_module_names:
                yield path.relative_to(ROOT / "src/cdp").as_posix(), top


@pytest.mark.lint
def test_what_is_imported_is_declared():
    base = names_of(PROJECT["dependencies"])
    extra = {name: names_of(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
    found, used = packages_distributions(), set()
    for path, top in imports():
        if path in NOT_THE_PROGRAM:
            continue
        (distribution,) = {name.lower().replace("_", "-") for name in found.get(top, [top] if top in EXTRA_OF else [])}
        used.add(distribution)
        if (path.partition("/")[0] in ONLY_TRACES or path in WITH_EXTRA) and top in EXTRA_OF:
            assert distribution in extra[EXTRA_OF[top]], (path, top)
        else:
            assert distribution in base, (path, top)
    assert used == base | extra["replay"] | extra["arrow"] | extra["archive"]       # and nothing else is asked for
    assert PROJECT["optional-dependencies"]["all"] == ["cdp[replay,arrow,archive]"]


def sources():
    """What of the source tree is installed: all but what the extension modules are made of."""
    return {path.relative_to(ROOT / "src") for package in OURS for path in (ROOT / "src" / package).rglob("*")
            if path.is_file() and path.suffix not in (".pyx", ".c", ".so", ".pyc")}


def test_all_files_of_the_source_tree_are_installed():
    """By pyproject.toml: a module, or what the patterns of its package, or of one above it, say."""
    patterns = PROJECT_FILE["tool"]["setuptools"]["package-data"]
    assert len(sources()) > 500
    for path in sources():
        if path.suffix != ".py":
            packages = [folder for folder in path.parents if (ROOT / "src" / folder / "__init__.py").exists()]
            assert any(path.relative_to(package).match(pattern) and len(path.relative_to(package).parts) ==
                       len(Path(pattern).parts) for package in packages
                       for pattern in patterns["*"] + patterns.get(".".join(package.parts), [])), path
        else:
            assert (ROOT / "src" / path).with_name("__init__.py").exists(), f"{path} is in no package"


def test_all_files_of_the_source_tree_are_in_the_wheel():
    """That this cdp was installed from."""
    files = {Path(file) for file in distribution("cdp").files or ()}
    if Path("cdp/__init__.py") not in files:
        pytest.skip("an editable install")
    assert sources() <= files
    made = {file.parent / file.name.partition(".")[0] for file in files if file.suffix == ".so"}
    core = (ROOT / "src/cdpcore").rglob("*.pyx")
    assert made == {Path("cdpcore/_shared"), *(path.relative_to(ROOT / "src").with_suffix("") for path in core)}


@pytest.fixture
def bare(tmp_path):
    """Run the command line as it is without the extras."""
    def run(*args, lines=None, hidden=BARE, module="cdp.__main__"):
        code = HIDDEN.format(hidden=hidden, module=module) + (MANY if lines else ONE)
        return subprocess.run([sys.executable, "-c", code, *args], cwd=tmp_path, input="\n".join(lines or ()),
                              capture_output=True, text=True, timeout=60, check=False,
                              env={**interop.environ(), "XDG_RUNTIME_DIR": str(tmp_path)})

    return run


def test_the_main_job_needs_no_extra(bare, tmp_path):
    (tmp_path / "disk.img").write_bytes(b"disk" * 4096)
    log = WriteLog(tmp_path / "web.wlog")
    log.write(0, bytes(512))
    log.count()
    lines = ("import disk.img web", "info web", "window web", "bookmark web b", "bookmarks web", "explain web@b",
             "records web",
             "image create web@b trial", "image list web", "export web@b out.img", "restore web@b", "undo web",
             "restores web",
             "check web", "image delete web trial", "config show", "create new --size 1M", "trace formats",
             "capture new --log web.wlog --once --settle 0s",
             "create kept --mode before --base disk.img", "detach kept")
    done = bare(lines=lines)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_the_demo_needs_no_extra(bare):
    assert bare("--help", module="cdp.demo.__main__").returncode == 0


@pytest.mark.parametrize(("line", "hidden", "package"), [
    ("records web --format parquet", {"pyarrow"}, "pyarrow"),
    ("archive s3://bucket/web back", BARE, "obstore"), ("check s3://bucket/web", BARE, "obstore"),
    ("trace info t.csv", BARE, "zstandard"), ("trace convert t.csv t.iolog", BARE, "polars"),
    ("replay t.csv --volume web --create", BARE, "zstandard"),
    ("trace info t.csv --plot t.png", {"matplotlib"}, "matplotlib"),
    ("replay t.csv --volume web --create --plot t.png", {"matplotlib"}, "matplotlib"),
])
def test_without_an_extra_a_command_says_which(bare, tmp_path, line, hidden, package):
    (tmp_path / "t.csv").write_text("1,0,0,4096,0,0\n")
    done = bare(*line.split(), hidden=hidden)
    assert (done.returncode, done.stdout) == (8, "")
    assert re.fullmatch(
        rf"cdp: error: .* needs the Python package {package}, which is not installed; "
        rf"pip install 'cdp\[{EXTRA_OF[package]}\]'\n",
        done.stderr,
    )
    assert not (tmp_path / "web").exists() and not (tmp_path / "t.iolog").exists()

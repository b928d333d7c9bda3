"""The command line's form: help, exit statuses, usage errors, start-up, documents in step."""
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cdp
from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, CdpCommand, report
from cdp.cli.reference import commands, help_of, renewed
from cdp.settings import KEYS
from cdpcore.base import errors

DOCS = Path(__file__).parent.parent.parent / "docs"
ALL = list(commands())
LEAVES = [(name, found) for name, found in ALL if not isinstance(found, click.Group)]


def run(*args, env=None):
    return CliRunner().invoke(cli, list(args), env=env, prog_name="cdp")


def one_line_error(result, status, *needles):
    """The result is that status and one line `cdp: error: ...; next step` on standard error, nothing else."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("cdp: error: ") and result.stderr.count("\n") == 1, result.stderr
    assert "; " in result.stderr, "no next step"
    for needle in needles:
        assert needle in result.stderr


@pytest.mark.parametrize("name, found", LEAVES, ids=[name for name, _ in LEAVES])
def test_every_command_has_json_examples_and_exit_status(name, found):
    assert isinstance(found, CdpCommand)
    text = help_of(name, found)
    assert "--json" in text and "Examples:" in text and "Exit status:" in text
    assert found.examples and all(meaning for _, meaning in found.examples)
    assert set(found.exit_codes) <= set(exits.MEANING)
    # Every example is one of this command, and its options exist.
    for line, _ in found.examples:
        if line.startswith("cdp "):
            assert f"{line} ".startswith(f"{name} "), line
    assert len(found.get_short_help_str(60)) < 60 and not found.get_short_help_str(60).endswith("...")


@pytest.mark.parametrize("name, found", LEAVES, ids=[name for name, _ in LEAVES])
def test_help_has_the_engines_options_where_they_are_asked_for(name, found):
    text, engine = help_of(name, found), [param for param in found.params if param.name in ENGINE_KEYS]
    assert not any(option in text.split("Examples:")[0] for param in engine for option in param.opts)
    assert ("--help-engine" in text) == bool(engine)
    if engine:
        asked = run(*name.split()[1:], "--help-engine")
        assert asked.exit_code == 0 and all(option in asked.stdout for param in engine for option in param.opts)
        assert "--json" not in asked.stdout
    if "Options:" in text:      # a command's own first
        assert text.index("\nOptions:") < text.index("Options of all commands:")


def test_exit_statuses_are_those_of_the_error_kinds():
    kinds = {"InvalidRequest": exits.USAGE, "NotFound": exits.NOT_FOUND, "RefusedPoint": exits.REFUSED,
             "Corruption": exits.CORRUPT, "OutOfSpace": exits.NO_SPACE, "Busy": exits.BUSY,
             "Unavailable": exits.UNAVAILABLE, "Closed": exits.UNAVAILABLE, "CdpError": exits.OTHER}
    for name, status in kinds.items():
        assert getattr(errors, name).exit_code == status


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_documents_are_in_step(path):
    assert renewed(path.read_text()) == path.read_text(), "run: python -m cdp.cli.reference write docs"


def test_the_documents_have_the_produced_parts():
    assert "<!-- begin commands -->" in (text := (DOCS / "cli.md").read_text()) and "<!-- begin exits -->" in text
    assert "<!-- begin settings -->" in (DOCS / "settings.md").read_text()


@pytest.mark.parametrize("args", [["create", "\udcff", "--size", "1G"], ["bookmark", "web", "\udcff"],
                                  ["info", "a\udcffb"]])
def test_what_is_not_text(args):
    one_line_error(run(*args), exits.USAGE, "not text in UTF-8", "\\udcff")


@pytest.mark.parametrize("args, needle", [
    (["inf"], "did you mean 'info'"),
    (["info"], "missing argument 'VOLUME'"),
    (["info", "a", "b"], "unexpected extra argument"),
    (["create", "x"], "missing option '--size'"),
    (["create", "--sise", "1G", "x"], "no such option '--sise'"),
    (["serve"], "missing argument"),
    (["records", "x", "--limit", "-1"], "not in the range"),
    (["records", "x", "--limit", "many"], "not a valid integer"),
    (["image", "make"], "no such command 'make'"),
    (["restore"], "missing argument 'VOLUME@POINT'"),
    (["bookmark", "web"], "missing argument 'NAME'"),
    (["export", "web"], "missing argument 'OUT'"),
    (["--nope"], "no such option"),
])
def test_wrong_command_lines(args, needle):
    result = run(*args)
    one_line_error(result, exits.USAGE)
    assert needle.lower() in result.stderr.lower()
    assert "--help' shows how it is written" in result.stderr


def test_no_command_shows_the_help_and_fails():
    result = run()
    assert result.exit_code == exits.USAGE and "Commands:" in result.stderr and result.stdout == ""


def test_settings_are_checked_before_the_command_looks_at_anything(tmp_path):
    for args in (["--pool-bytes", "1"], ["--set", "pool_bytes=1"]):
        one_line_error(run("create", str(tmp_path / "v"), "--size", "1G", *args), exits.USAGE, "out of range")
    assert list(tmp_path.iterdir()) == []
    one_line_error(run("info", "nowhere", "--set", "x=1"), exits.USAGE, "unknown key 'x'")
    none = ("--config", str(tmp_path / "no.toml"))
    one_line_error(run("info", "nowhere", *none), exits.NOT_FOUND, "no such settings file")
    one_line_error(run(*none, "info", "nowhere"), exits.NOT_FOUND, "no such settings file")


def test_config_show(tmp_path):
    config = tmp_path / "cdp.toml"
    config.write_text('merge_fanin = 3\nlog_level = "debug"\n')
    result = run("config", "show", "--config", str(config), "--pool-bytes", "96MiB", env={"CDP_MAX_RESTORES": "9"})
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert f"{config}:1" in rows["merge_fanin"] and "96MiB" in rows["pool_bytes"]
    assert "environment CDP_MAX_RESTORES" in rows["max_restores"] and "default" in rows["segment_bytes"]
    shown = json.loads(run("config", "show", "--json", "--config", str(config)).stdout)
    assert shown["config_file"] == str(config)
    assert [entry["key"] for entry in shown["settings"]] == list(KEYS)
    assert shown["settings"][0] == {"key": "pool_bytes", "value": 64 << 20, "unit": "bytes", "source": "default",
                                    "default": 64 << 20, "range": "16MiB .. 4GiB", "group": "engine",
                                    "doc": KEYS["pool_bytes"].doc}


def test_every_error_becomes_one_line(capsys):
    cases = [
        (errors.Busy("web: open elsewhere", "stop that"), exits.BUSY, "web: open elsewhere; stop that"),
        (errors.Corruption("two\nlines"), exits.CORRUPT, "two lines; run 'cdp check'"),
        (errors.Unavailable("x: Permission denied"), exits.UNAVAILABLE, "x: Permission denied; run as a user who may"),
        (errors.Unavailable("x: broken"), exits.UNAVAILABLE, "x: broken; see the system's log"),
        (errors.OutOfSpace("x"), exits.NO_SPACE, "x; free space"),
        (errors.Busy("x"), exits.BUSY, "x; wait"),
        (errors.NotFound("x"), exits.NOT_FOUND, "x; see 'cdp --help'"),
        (OSError(28, "No space left on device", "x.img"), exits.NO_SPACE, "x.img: No space left on device; free space"),
        (PermissionError(13, "Permission denied", "x"), exits.UNAVAILABLE, "x: Permission denied; run as"),
        (FileNotFoundError(2, "No such file", "x"), exits.NOT_FOUND, "x: No such file; check"),
        (KeyboardInterrupt(), exits.INTERRUPTED, "interrupted"),
        (MemoryError(), exits.UNAVAILABLE, "lower pool_bytes"),
        (ZeroDivisionError("x"), exits.OTHER, "internal error: ZeroDivisionError: x; repeat with --debug"),
    ]
    for error, status, text in cases:
        assert report(error, debug=False) == status
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("cdp: error: ") and text in err and err.count("\n") == 1
    try:
        raise ValueError("y")
    except ValueError as error:
        report(error, debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_traceback():
    code = "import sys; from cdp.cli import main; sys.argv = ['cdp', 'config', 'show', '--json']; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (exits.OK, exits.BROKEN_PIPE)
    assert b"Traceback" not in err and b"Exception ignored" not in err


@pytest.mark.cold
def test_start_up_imports_nothing_heavy():
    heavy = ["fastapi", "pydantic", "uvicorn", "httpx", "rich", "matplotlib", "polars", "asyncio", "numpy", "lmdb"]
    code = f"""import sys
from cdp.cli import cli
cli(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"""
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stderr.strip() == "[]"


@pytest.mark.cold
def test_short_commands_import_no_numpy(tmp_path):
    """It would be half of the time that they take. What reads records has it."""
    volume = str(tmp_path / "v")
    code = """import sys
from cdp.cli import cli
for line in sys.argv[2:]:
    cli(line.replace("VOLUME", sys.argv[1]).split(), standalone_mode=False)
    print(line, "numpy" in sys.modules, file=sys.stderr)"""
    lines = ["create VOLUME --size 1M", "info VOLUME", "bookmark VOLUME here", "records VOLUME"]
    got = subprocess.run([sys.executable, "-c", code, volume, *lines], capture_output=True, text=True, check=True)
    assert got.stderr.splitlines() == [f"{line} {line == lines[-1]}" for line in lines]


def test_version():
    result = run("--version")
    assert result.exit_code == 0 and result.stdout == f"cdp {cdp.__version__}\n"
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == cdp.__version__


@pytest.mark.cold
@pytest.mark.parametrize("module", ["cdp.cli.trace", "cdp.cli.replay"])
def test_a_group_has_its_commands_whatever_was_loaded_before(module):
    code = f"import {module}; from cdp.cli import cli; sys.exit(cli.main(['trace', 'formats']))"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0 and "families:" in done.stdout, done.stderr

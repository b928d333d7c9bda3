"""Manual pages and shell completion, which are made from the commands."""
import os
import re
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from support import interop

from cdp.cli import cli, man
from cdp.cli.completion import Text
from cdp.cli.reference import commands
from cdp.settings import KEYS

PAGES = man.pages()


def words(text):
    """A page as plain words, without its macros and escapes."""
    text = re.sub(r"\\f[BP]|\\&", "", text)
    for c, roff in man.SPECIAL.items():
        text = text.replace(roff, c)
    return text


def only_words(text):
    return " ".join(re.findall(r"\w+", text))


def test_every_command_has_a_page_and_no_page_is_of_another():
    names = {"cdp", *(name.replace(" ", "-") for name, _ in commands())}
    assert {*PAGES} == {f"{name}.1" for name in names} | {"cdp.toml.5"}
    for name in names:
        assert f"{name} - " in words(PAGES[f"{name}.1"])


@pytest.mark.parametrize("name, found", [("cdp", cli), *commands()],
                         ids=["cdp", *(name for name, _ in commands())])
def test_a_page_says_what_the_help_says(name, found):
    page = words(PAGES[f"{name.replace(' ', '-')}.1"])
    for param in found.params:
        if isinstance(param, click.Option):
            assert f"\n.TP\n{', '.join(sorted(param.opts, key=len))}" in page, param.name
    for line, meaning in getattr(found, "examples", ()):
        assert f"\n.TP\n{line}\n" in page and meaning.split()[0] in page
    for status in getattr(found, "exit_codes", ()):
        assert f"\n.TP\n{status}\n" in page
    assert only_words(found.help) in only_words(re.sub(r"(?m)^\.[A-Z]{2}\b", "", page))


def test_every_setting_is_on_its_page():
    page = words(PAGES["cdp.toml.5"])
    for key in KEYS.values():
        assert f"\n.TP\n{key.name} ({key.range_text}; default {key.format(key.default)})\n" in page
    assert sum(line == ".TP" for line in page.splitlines()) == len(KEYS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("man")
    man.main(str(folder))
    return folder


@pytest.mark.interop
def test_mandoc_has_nothing_to_say(folder):
    interop.need("mandoc")
    assert interop.run("mandoc", "-Tlint", "-W", "warning", *sorted(map(str, folder.iterdir()))).stdout == ""


@pytest.mark.interop
def test_man_shows_them(folder):
    interop.need("man")
    for page, section in (("cdp-image-create.1", "EXIT STATUS"), ("cdp.toml.5", "ENGINE")):
        done = subprocess.run(["man", "--warnings=w", "-P", "cat", "-l", str(folder / page)], capture_output=True,
                              text=True, check=True, env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
        assert section in done.stdout and done.stderr == ""


def test_a_page_can_be_made_again_byte_for_byte(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764374400")
    assert man.pages() == man.pages() and ' 1 2025-11-29 "cdp ' in man.pages()["cdp.1"]


def test_what_looks_like_a_macro_is_text():
    assert list(man.prose(".so x 'cdp list' and \\n")) == [r"\&.so x \fBcdp list\fP and \en"]
    assert list(man.paragraphs("a\n\n\b\n.b\n  c")) == ["a", ".PP", ".nf", r"\&.b", "  c", ".fi"]


def completed(*args, incomplete=""):
    found = ShellComplete(cli, {}, "cdp", "_CDP_COMPLETE").get_completions(list(args), incomplete)
    return [(item.type, item.value) for item in found]


def test_commands_options_and_values_are_completed():
    assert ("plain", "bookmark") in completed(incomplete="boo") and ("plain", "create") in completed("image")
    assert completed("serve", incomplete="--log-f") == [("plain", "--log-format")]
    assert completed("serve", "web", "--log-format") == [("plain", "text"), ("plain", "json")]
    assert completed("serve", "--direct-io", incomplete="f") == [("plain", "false")]
    assert completed("serve", incomplete="/var/li") == [("dir", "/var/li")]
    assert completed("restore", incomplete="we") == [("dir", "we")]
    assert completed("info", "web", "--config", incomplete="x") == [("file", "x")]


def test_every_volume_is_completed_as_a_folder():
    volumes = [param for _, found in commands() for param in found.params
               if isinstance(param, click.Argument) and "VOLUME" in (param.metavar or param.name).upper()]
    assert len(volumes) > 30 and all(isinstance(param.type, Text) for param in volumes)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_its_script(shell, tmp_path):
    """bash asks the program, as with a key; the others only read the script."""
    code = [sys.executable, "-m", "cdp"]
    script = subprocess.run(code, capture_output=True, text=True, check=True,
                            env={**interop.environ(), "_CDP_COMPLETE": f"{shell}_source"}).stdout
    assert "cdp" in script and "_CDP_COMPLETE" in script
    if shell != "bash":
        return
    (tmp_path / "cdp").write_text(f'#!/bin/sh\nexec {sys.executable} -m cdp "$@"\n')
    (tmp_path / "cdp").chmod(0o755)
    asked = f'{script}\nCOMP_WORDS=(cdp bookm); COMP_CWORD=1; _cdp_completion cdp; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True,
                          env={**interop.environ(), "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.stdout.split() == ["bookmark", "bookmarks"]

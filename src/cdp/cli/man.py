"""Manual pages from the commands: `python -m cdp.cli.man FOLDER` writes cdp.1, cdp-COMMAND.1 and cdp.toml.5 there.

They say what the help says, with all options, and are in the macros of man(7), which man-db and mandoc both read. The
date of a page is that of $SOURCE_DATE_EPOCH, where it is set, so that packages can be built again byte for byte.
"""
import copy
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from textwrap import wrap

import click

from cdp import __version__
from cdp.cli import cli, exits
from cdp.cli.base import COMMON, CdpCommand, CdpGroup
from cdp.cli.reference import commands
from cdp.settings import KEYS

WIDTH = 78
SPECIAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
SETTINGS = "cdp.toml"
ENVIRONMENT = (
    ("CDP_CONFIG", "A file of settings, cdp.toml(5)."),
    ("CDP_KEY", "A setting: its name in capitals, for instance CDP_LOG_LEVEL. It counts more than the file."),
    ("XDG_RUNTIME_DIR", "Sockets go to its folder cdp; else to /run/cdp for root, or to a folder in /tmp."),
)


def escaped(text: str) -> str:
    """Text inside of a line, as roff that prints it as it is."""
    return "".join(SPECIAL.get(c, c) for c in text)


def no_macro(line: str) -> str:
    """A whole line, which a point at its start would make a macro."""
    return rf"\&{line}" if line.startswith(".") else line


def prose(text: str) -> Iterator[str]:
    """The lines of a paragraph: words in backticks, commands in quotes and names of pages are bold."""
    parts = re.split(r"(`[^`]+`|'cdp [^']+'|\bcdp[\w.-]*\([1-8]\))", text)
    roff = "".join(bold(part.strip("`'")) if i % 2 else escaped(part) for i, part in enumerate(parts))
    yield from map(no_macro, wrap(roff, WIDTH, break_long_words=False, break_on_hyphens=False))


def bold(text: str) -> str:
    name, section = re.fullmatch(r"(.*?)(\([1-8]\))?", text, re.DOTALL).groups()    # type: ignore[union-attr]
    return rf"\fB{escaped(name)}\fP{section or ''}"


def heading(name: str, section: int) -> str:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    return f'.TH "{escaped(name.upper())}" {section} {date} "cdp {__version__}"'


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; click's mark \\b keeps the lines of one."""
    for i, part in enumerate(cleandoc(text).split("\n\n")):
        if i:
            yield ".PP"
        if part.startswith("\b"):
            yield from (".nf", *(no_macro(escaped(line)) for line in part.splitlines()[1:]), ".fi")
        else:
            yield from prose(part)


def listed(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms, which are roff already, with what they mean."""
    for term, text in pairs:
        yield from (".TP", term, *prose(text))


def option(param: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """An option as a term with its help, also one that the short help leaves out."""
    if not isinstance(param, click.Option):
        return None
    shown = copy.copy(param)
    shown.hidden = False
    record = shown.get_help_record(context)
    assert record is not None
    words = re.split(r"(--?[\w-]+)", record[0])
    return "".join(rf"\fB{escaped(word)}\fP" if i % 2 else escaped(word) for i, word in enumerate(words)), record[1]


def options(found: click.Command, context: click.Context) -> Iterator[str]:
    """The sections of options: the command's own, settings, and those that all commands have."""
    own, settings, common = list[tuple[str, str]](), list[tuple[str, str]](), list[tuple[str, str]]()
    for param in found.get_params(context):
        if (record := option(param, context)) is not None:
            (common if COMMON & {*param.opts} else settings if param.name in KEYS else own).append(record)
    yield ".SH OPTIONS"
    yield from listed(own)
    for title, records in (("Settings", settings), ("Options of all commands", common)):
        if records:
            yield from (f".SS {title}", *listed(records))


def short(found: click.Command) -> str:
    """The first sentence of its help."""
    return found.get_short_help_str(limit=200)


def page(name: str, found: click.Command) -> str:
    """The page of a command, or of the group of all, as man(7)."""
    context = click.Context(found, info_name=name, help_option_names=["-h", "--help"])
    dashed = name.replace(" ", "-")
    usage = " ".join(found.collect_usage_pieces(context))
    lines = [heading(dashed, 1), ".SH NAME", rf"{escaped(dashed)} \- {escaped(short(found).rstrip('.'))}",
             ".SH SYNOPSIS", f"{bold(name)} {escaped(usage)}", ".SH DESCRIPTION", *paragraphs(found.help or "")]
    if isinstance(found, click.Group):
        inner = [(sub, found.get_command(context, sub)) for sub in found.list_commands(context)]
        lines += [".SH COMMANDS", *listed((bold(f"{dashed}-{sub}(1)"), short(one)) for sub, one in inner if one)]
    lines += options(found, context)
    if isinstance(found, CdpCommand | CdpGroup):
        lines += [".SH EXAMPLES", *listed((bold(line), text) for line, text in found.examples)]
    if found is cli:
        lines += [".SH ENVIRONMENT", *listed((bold(term), text) for term, text in ENVIRONMENT)]
    codes = found.exit_codes if isinstance(found, CdpCommand | CdpGroup) else exits.MEANING
    lines += [".SH EXIT STATUS", *listed((bold(str(code)), exits.MEANING[code]) for code in codes)]
    above = {name.rpartition(" ")[0], "cdp"} - {"", name}
    also = [*(f"{one.replace(' ', '-')}(1)" for one in sorted(above)), f"{SETTINGS}(5)"]
    return "\n".join([*lines, ".SH SEE ALSO", ", ".join(map(bold, also)), ""])


def settings_page() -> str:
    """cdp.toml.5: every setting."""
    lines = [heading(SETTINGS, 5), ".SH NAME", rf"{SETTINGS} \- settings of cdp", ".SH DESCRIPTION",
             *paragraphs("A TOML file with keys at the top level, named by --config or $CDP_CONFIG; none is read by "
                         "default. The environment ($CDP_KEY), --set KEY=VALUE and a key's own flag count more, in "
                         "this order. An unknown key, a wrong type or a value out of range is an error.\n\n"
                         "Sizes are written 64MiB, 64M (both 1024-based) or 64MB (1000-based), durations 250ms, 1s, 2m "
                         "or 1h. A relative path is relative to the file.")]
    for group, title in (("engine", "ENGINE"), ("server", "SERVER")):
        lines += [f".SH {title}", *listed(
            (rf"\fB{key.name}\fP ({escaped(key.range_text)}; default {escaped(key.format(key.default))})",
             f"{key.doc} Flag {key.flag}.") for key in KEYS.values() if key.group == group)]
    lines += [".SH EXAMPLES", ".nf", *map(escaped, ('pool_bytes = "128MiB"', 'commit_interval_ms = "500ms"',
                                                    'metrics_listen = "127.0.0.1:9464"')), ".fi",
              ".SH SEE ALSO", f"{bold('cdp(1)')}, {bold('cdp-config-show(1)')}", ""]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """All pages by file name."""
    found = {f"{name.replace(' ', '-')}.1": page(name, one) for name, one in (("cdp", cli), *commands())}
    return {**found, f"{SETTINGS}.5": settings_page()}


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        Path(folder, name).write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cdp.cli.man FOLDER")
    main(sys.argv[1])

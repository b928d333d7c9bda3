"""Reference text for the documents, produced from the code: `python -m cdp.cli.reference PART`, a key of PARTS.

docs/settings.md, cli.md, admin-api.md and python.md hold these between marker lines; `python -m cdp.cli.reference write
DOCS` renews them, and a test fails where they are out of step.
"""
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import click

from cdp.cli import cli, exits
from cdp.settings import KEYS

MARKER = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def settings_text() -> str:
    """One table for each group of keys."""
    parts = []
    for group, title in (("engine", "Engine"), ("server", "Server")):
        lines = [f"### {title}", "", "| key | unit | range | default | flag | environment |",
                 "|---|---|---|---|---|---|"]
        keys = [key for key in KEYS.values() if key.group == group]
        lines += [f"| `{key.name}` | {key.unit} | {key.range_text} | {key.format(key.default)} "
                  f"| `{key.flag}` | `{key.env}` |"
                  for key in keys]
        lines += ["", *(fill(f"- `{key.name}`: {key.doc}", 120, subsequent_indent="  ", break_on_hyphens=False)
                        for key in keys)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def exits_text() -> str:
    lines = ["| status | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in exits.MEANING.items())]
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands with their full names, groups first, except those of another package."""
    root = click.Context(cli, info_name="cdp")
    for name in cli.ORDER:
        found = cli.get_command(root, name)
        assert found is not None
        yield f"cdp {name}", found
        if isinstance(found, click.Group):
            for inner in found.list_commands(root):
                yield f"cdp {name} {inner}", found.commands[inner]


def help_of(name: str, found: click.Command) -> str:
    """The help as on a terminal of 100 columns."""
    context = click.Context(found, info_name=name, terminal_width=100, help_option_names=["-h", "--help"])
    return found.get_help(context)


def commands_text() -> str:
    return "\n".join(f"### {name}\n\n```text\n{help_of(name, found)}\n```\n" for name, found in commands())


def admin_text() -> str:
    from cdp.cli.admin_reference import admin_text as produced

    return produced()


def python_text() -> str:
    from cdp.cli.python_reference import python_text as produced

    return produced()


PARTS = {"settings": settings_text, "commands": commands_text, "exits": exits_text, "admin": admin_text,
         "python": python_text}


def renewed(document: str) -> str:
    """A document with what stands between its markers produced anew."""
    return MARKER.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], document)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            for path in sorted(Path(folder).glob("*.md")):
                if (text := path.read_text()) != (new := renewed(text)):
                    path.write_text(new)
        case [part] if part in PARTS:
            sys.stdout.write(PARTS[part]())
        case _:
            sys.exit("usage: python -m cdp.cli.reference settings|commands|exits|admin|python|write DOCS")

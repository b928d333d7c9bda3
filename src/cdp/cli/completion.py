"""What a shell can complete beside commands and options: folders of volumes, files, and the choices of a setting.

The mechanism is click's, asked for by $_CDP_COMPLETE (cdp.cli.base). Pure: nothing is opened or asked.
"""
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FOLDERS = re.compile("VOLUME|FOLDER|DIRECTORY")
FILES = re.compile("FILE|OUT|TRACE|PATH")


class Text(click.types.StringParamType):
    """Text, with what a shell may offer for it: `choices`, or what is in the file system ("dir", "file")."""

    def __init__(self, choices: Sequence[str] = (), kind: str = ""):
        self._choices, self._kind = choices, kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        if self._kind:
            return [CompletionItem(incomplete, type=self._kind)]
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


def with_hints(params: Iterable[click.Parameter]) -> list[click.Parameter]:
    """The same parameters; those that are plain text and named after a volume or a file complete as such."""
    found = list(params)
    for param in found:
        if param.type is click.STRING:
            name = (param.metavar or param.name or "").upper()
            if kind := "dir" if FOLDERS.search(name) else "file" if FILES.search(name) else "":
                param.type = Text(kind=kind)
    return found

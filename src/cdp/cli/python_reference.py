"""The reference of the Python API for docs/python.md, produced from the docstrings of what cdp.__all__ names."""
import dataclasses
import inspect
import re
from collections.abc import Iterator
from textwrap import fill
from typing import Any

BESIDE = {"in_use", "retain", "retain_open", "unclean", "geometry", "view"}     # for the packages of this project


def python_text() -> str:
    import cdp

    found = {name: getattr(cdp, name) for name in cdp.__all__}
    parts = [*_functions(found), *_classes(found), *_records(found), *_errors(found)]
    return "\n\n".join(parts) + "\n"


def _functions(found: dict[str, Any]) -> Iterator[str]:
    yield "### Functions"
    for name, one in found.items():
        if inspect.isfunction(one):
            yield from _callable(f"cdp.{name}", one)


def _classes(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.items():
        if inspect.isclass(one) and not dataclasses.is_dataclass(one) and not issubclass(one, Exception):
            yield f"### cdp.{name}"
            yield _text(one)
            for inner, member in vars(one).items():
                if inner.startswith("_") or inner in BESIDE:
                    continue
                if isinstance(member, property):
                    yield f"**`{inner}`**" + (f": {_text(member)}" if member.__doc__ else "")
                elif inspect.isfunction(member):
                    yield from _callable(inner, member)
                elif isinstance(member, classmethod):
                    yield from _callable(f"cdp.{name}.{inner}", getattr(one, inner))


def _records(found: dict[str, Any]) -> Iterator[str]:
    yield "### Records"
    for name, one in found.items():
        if dataclasses.is_dataclass(one) and name != "Settings":
            fields = ", ".join(f"`{field.name}`: {field.type}" for field in dataclasses.fields(one))
            text = _text(one) if one.__doc__ and not one.__doc__.startswith(f"{name}(") else ""
            yield fill(f"**`cdp.{name}`** ({fields}). {text}", 120, break_on_hyphens=False, break_long_words=False)
    yield fill("**`cdp.Settings`**: every setting as a keyword, in bytes and milliseconds as its name says; see "
               "[settings.md](settings.md).", 120, break_on_hyphens=False)


def _errors(found: dict[str, Any]) -> Iterator[str]:
    yield "### Errors"
    rows = ["| error | exit status | |", "|---|---|---|"]
    for name, one in found.items():
        if inspect.isclass(one) and issubclass(one, Exception):
            status: int = vars(one).get("exit_code", 1)
            rows.append(f"| `cdp.{name}` | {status} | {_text(one, width=10_000)} |")
    yield "\n".join(rows)


def _callable(name: str, function: Any) -> Iterator[str]:
    yield "```text\n" + _signature(name, function) + "\n```"
    yield _text(function)


def _signature(name: str, function: Any) -> str:
    """In lines of the page's width."""
    signature = inspect.signature(function)
    shown = [param.replace(annotation=_plain(param.annotation)) for key, param in signature.parameters.items()
             if key != "self" and not key.startswith("_")]
    text = str(signature.replace(parameters=shown, return_annotation=_plain(signature.return_annotation)))
    text = re.sub(r"'([^']*)'", r"\1", text)
    return fill(f"{name}{text}", 120, subsequent_indent="        ", break_on_hyphens=False, break_long_words=False)


def _plain(annotation: Any) -> Any:
    return annotation if annotation is inspect.Parameter.empty else str(annotation)


def _text(one: Any, width: int = 120) -> str:
    paragraphs = inspect.cleandoc(one.__doc__ or "").split("\n\n")
    return "\n\n".join(fill(" ".join(part.split()), width, break_on_hyphens=False, break_long_words=False)
                       for part in paragraphs)

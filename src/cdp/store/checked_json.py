"""A small file of a folder: one line of JSON with a checksum, replaced as a whole (docs/format.md).

    {"crc32c": "1f0a...", "format": 1, NAME: {...}}

The checksum is that of the inner object as it is written here: keys in order. It says that nothing was damaged, not
that a writer was right: what is read has the types that its dataclass says, or is refused (made()). Threading: none.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from cdpcore.base.checksum import crc32c

T = TypeVar("T")
INTEGERS = range(-(1 << 63), 1 << 64)


def packed(name: str, fields: dict[str, Any], version: int | None = None) -> bytes:
    """The line. version: its field `format`; None: it has none."""
    text = json.dumps(fields, sort_keys=True)
    known = "" if version is None else f'"format": {version}, '
    return f'{{"crc32c": "{crc32c(text.encode()):08x}", {known}"{name}": {text}}}\n'.encode()


def unpacked(raw: bytes, name: str, version: int | None = None) -> dict[str, Any]:
    """The inner object. Raises ValueError, KeyError, TypeError, AttributeError where it is damaged, or of another
    version."""
    outer = parsed(raw)
    inner: dict[str, Any] = outer[name]
    if int(outer["crc32c"], 16) != crc32c(json.dumps(inner, sort_keys=True).encode()):
        raise ValueError("checksum")
    if version is not None and outer["format"] != version:
        raise ValueError(f"format {outer['format']!r} is not known here")
    return inner


def parsed(raw: bytes) -> Any:
    """json.loads(); what is nested too deeply is a ValueError, too."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def made(kind: type[T], found: Any) -> T:
    """An object of the dataclass `kind` from a JSON object with its fields. Arrays become tuples, and objects
    dataclasses, where the fields are those. Raises TypeError and ValueError where a field is missing, unknown, or of
    another type; an integer has at most 64 bits."""
    return cast(T, _checker(cast(Any, kind))(found))


@cache
def _checker(hint: Any) -> Callable[[Any], Any]:
    """What makes a value of the type `hint` of one of JSON."""
    if hint in (str, bool):
        return lambda value: _simple(hint, value)
    if hint is int:
        return _integer
    if is_dataclass(hint):
        return _object(cast(type, hint))
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType and args[1:] == (type(None),):
        some = _checker(args[0])
        return lambda value: None if value is None else some(value)
    if origin is tuple and args[1:] == (...,):
        each = _checker(args[0])
        return lambda value: tuple(each(one) for one in _array(value))
    if origin is tuple:
        parts = [_checker(one) for one in args]
        return lambda value: tuple(part(one) for part, one in zip(parts, _array(value), strict=True))
    if origin is list:
        element = _checker(args[0])
        return lambda value: [element(one) for one in _array(value)]
    if origin is dict:
        held = _checker(args[1])
        return lambda value: {name: held(one) for name, one in _simple(dict, value).items()}
    raise NotImplementedError(f"{hint} in a file")


def _object(kind: type) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    checkers = {field.name: _checker(hints[field.name]) for field in fields(kind)}

    def make(value: Any) -> Any:
        if unknown := _simple(dict, value).keys() - checkers.keys():
            raise TypeError(f"no field {min(unknown)!r} is known here")
        return kind(**{name: checkers[name](one) for name, one in value.items()})

    return make


def _simple(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _integer(value: Any) -> int:
    if _simple(int, value) not in INTEGERS:
        raise ValueError("an integer of more than 64 bits")
    return cast(int, value)


def _array(value: Any) -> Any:
    return value if isinstance(value, tuple) else _simple(list, value)

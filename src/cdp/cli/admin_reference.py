"""The reference of the administration API for docs/admin-api.md, produced from the application's own description (the
OpenAPI document): routes, what they take, what they answer."""
import json
from collections.abc import Iterator
from textwrap import fill
from typing import Any

from cdpcore.base import errors

EVERYWHERE = {"volume", "image"}    # parameters that the page explains once
ERRORS = set(vars(errors))          # an answer with such a name is an ErrorView


def admin_text() -> str:
    from cdp.serve.http_api import build_app

    document = build_app({}).openapi()
    schemas = document["components"]["schemas"]
    parts, shown = [], list[str]()
    for path, methods in document["paths"].items():
        for method, found in methods.items():
            parts.append("\n".join(_route(method, path, found, schemas, shown)))
    named = sorted(_reached(["ErrorView", *shown], schemas))
    parts += ["## Fields", *("\n".join(_schema(name, schemas[name])) for name in named)]
    return "\n\n".join(parts) + "\n"


def _route(method: str, path: str, found: dict[str, Any], schemas: dict[str, Any], shown: list[str]) -> Iterator[str]:
    yield f"### {method.upper()} {path}"
    yield ""
    yield _wrapped(found.get("description") or "")
    yield ""
    for param in found.get("parameters", ()):
        if param["name"] not in EVERYWHERE:
            need = ", needed" if param.get("required") else ""
            yield f"* `{param['name']}`: {_type(param['schema'])}{need}{_bounds(param['schema'])}"
    for kind, content in found.get("requestBody", {}).get("content", {}).items():
        if kind != "application/json":
            yield f"* body: `{kind}`"
            continue
        body = schemas[content["schema"]["$ref"].rpartition("/")[2]]
        for name, field in body["properties"].items():
            need = ", needed" if name in body.get("required", ()) else ""
            yield f"* `{name}` in the body: {_type(field)}{need}{_bounds(field)}"
    for status, answer in sorted(found["responses"].items()):
        if answer["description"] in ERRORS or status == "422":     # of all routes alike
            continue
        what = []
        for kind, content in answer.get("content", {}).items():
            if kind != "application/json":
                what.append(f"`{kind}`")
            elif schema := content.get("schema"):
                what.append(_type(schema))
                shown += _names(schema)
        what += [f"header `{name}`: {header['description']}" for name, header in answer.get("headers", {}).items()]
        if not what and answer["description"] != "Successful Response":
            what.append(answer["description"])
        yield f"* answers {status}{': ' if what else ''}{', '.join(what)}"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    if text := schema.get("description"):
        yield _wrapped(text)
        yield ""
    for field, what in schema.get("properties", {}).items():
        yield f"* `{field}`: {_type(what)}" + ("" if field in schema.get("required", ()) else ", may be missing")


def _wrapped(text: str) -> str:
    return fill(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object" and isinstance(inner := schema.get("additionalProperties"), dict):
        return f"object of {_type(inner)} by name"
    return str(kind)


def _bounds(schema: dict[str, Any]) -> str:
    said = []
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None and high < 1 << 63:
        said.append(f"{low} to {high}")
    if "default" in schema and schema["default"] is not None:
        said.append(f"default `{json.dumps(schema['default'])}`")
    return "".join(f", {one}" for one in said)


def _names(schema: Any) -> list[str]:
    """Of the schemas that one refers to."""
    if isinstance(schema, list):
        return [name for one in schema for name in _names(one)]
    if not isinstance(schema, dict):
        return []
    here = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
    return here + [name for key, one in schema.items() if key != "$ref" for name in _names(one)]


def _reached(names: list[str], schemas: dict[str, Any]) -> set[str]:
    reached, more = set[str](), list(names)
    while more:
        name = more.pop()
        if name not in reached:
            reached.add(name)
            more += _names(schemas[name])
    return reached

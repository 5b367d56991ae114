"""Structs as JSON Schema: msgspec's schemas, with comments as descriptions and narrowed types.

Tested in `tests/transport/spec/test_asyncapi.py`.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from inspect import getsource
from typing import Any, get_args

import msgspec
from msgspec import NODEFAULT, Raw, Struct, defstruct, field
from msgspec.structs import fields

Schema = dict[str, Any]

EXTENSION = re.compile("(Extension: |With extensions: )")  # begins a text about an extension
BYTES: Schema = {"type": "string", "format": "binary"}  # JSON Schema has no bytes

_FIELD = re.compile(r"    (\w+): [^#]*(?:# (.*))?")
_COMMENT = re.compile(r"    # (.*)")


def refer(name: str, *, of: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{of}/{name}"}


def narrow(struct: type[Struct], /, **types: Any) -> Any:
    """A Struct of the same name whose fields have the given, narrower types.

    Every field of type Raw must be given: msgspec cannot describe one that may be absent.
    """
    return _variant(struct, struct.__name__, struct.__struct_config__.tag, types, {})


def extend(struct: type[Struct], /, tag: str, name: str, **more: Any) -> Any:
    """A Struct under another tag and name, with more fields."""
    return _variant(struct, name, tag, {}, more)


def _variant(
    struct: type[Struct], name: str, tag: Any, types: dict[str, Any], more: dict[str, Any]
) -> Any:
    members: list[tuple[str, Any, Any]] = []
    for one in fields(struct):
        default = None if isinstance(one.default, Raw) else one.default
        if one.default_factory is not NODEFAULT:
            default = field(default_factory=one.default_factory)
        members.append((one.name, types.get(one.name, one.type), default))
    return defstruct(
        name,
        [*members, *more.items()],
        bases=(struct,),
        tag=tag,
        kw_only=True,
        namespace={"__doc__": struct.__doc__, "__module__": struct.__module__},
    )


def build_schemas(kinds: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each type, and the schemas of all Structs in them by name."""
    kinds = tuple(kinds)
    plain, components = msgspec.json.schema_components(kinds, ref_template=refer("{name}")["$ref"])
    for struct in set(_structs(kinds)):
        _annotate(components[struct.__name__], _comments(struct))
    return [_convert(one) for one in plain], {
        name: _convert(one) for name, one in components.items()
    }


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _structs(kind: Any) -> Iterator[type[Struct]]:
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
        kind = tuple(one.type for one in fields(kind))
    for inner in kind if isinstance(kind, tuple) else get_args(kind):
        yield from _structs(inner)


def _comments(struct: type[Struct]) -> dict[str, str]:
    """The comment beside each field, or in the lines above it, by field name."""
    found: dict[str, str] = {}
    for base in struct.__mro__:
        if getattr(sys.modules[base.__module__], base.__name__, None) is not base:
            continue  # built by `narrow`: it has no source
        if not issubclass(base, Struct) or base is Struct:
            continue
        above: list[str] = []
        for line in getsource(base).splitlines():
            if alone := _COMMENT.fullmatch(line):
                above.append(alone[1])
            elif written := _FIELD.fullmatch(line):
                text = " ".join([*above, *filter(None, [written[2]])])
                found.setdefault(written[1], text)
                above = []
    return {name: text for name, text in found.items() if text}


def _annotate(schema: Schema, comments: dict[str, str]) -> None:
    if EXTENSION.match(schema.get("description", "")):
        schema["x-extension"] = True
    properties = schema["properties"]
    for name in properties.keys() & comments:
        if "$ref" in properties[name]:  # JSON Schema ignores the siblings of a $ref
            properties[name] = {"allOf": [properties[name]]}
        properties[name]["description"] = comments[name]
        if EXTENSION.match(comments[name]):
            properties[name]["x-extension"] = True


def _convert(schema: Any) -> Any:
    """Replaces msgspec's base64 strings by binary ones, and drops its discriminators."""
    if isinstance(schema, list):
        return [_convert(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return dict(BYTES)
    return {name: _convert(one) for name, one in schema.items() if name != "discriminator"}

"""Structs as JSON Schema: msgspec's, with the comments of their fields and what checks narrow."""

import re
import sys
from collections.abc import Iterable, Iterator
from inspect import getsource
from typing import Any, get_args

import msgspec
from msgspec import NODEFAULT, Raw, Struct, defstruct, field
from msgspec.structs import fields

Schema = dict[str, Any]

EXTENSION = re.compile("(Extension: |With extensions: )")  # how a text about one begins
BYTES: Schema = {"type": "string", "format": "binary"}  # JSON Schema knows no bytes

_FIELD = re.compile(r"    (\w+): [^#]*(?:# (.*))?")
_COMMENT = re.compile(r"    # (.*)")


def refer(name: str, *, of: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{of}/{name}"}


def narrow(struct: type[Struct], /, **types: Any) -> Any:
    """The same Struct with the types that checks leave of its fields.

    A field of type Raw must be among them: msgspec cannot describe one that may be absent.
    """
    return _variant(struct, struct.__name__, struct.__struct_config__.tag, types, {})


def extend(struct: type[Struct], /, tag: str, name: str, **more: Any) -> Any:
    """The same Struct under another tag and name, with more fields."""
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


def describe(kinds: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each type, and those of all Structs in them by name."""
    kinds = tuple(kinds)
    plain, components = msgspec.json.schema_components(kinds, ref_template=refer("{name}")["$ref"])
    for struct in set(_structs(kinds)):
        _annotate(components[struct.__name__], _comments(struct))
    return [_mend(one) for one in plain], {name: _mend(one) for name, one in components.items()}


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _structs(kind: Any) -> Iterator[type[Struct]]:
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
        kind = tuple(one.type for one in fields(kind))
    for inner in kind if isinstance(kind, tuple) else get_args(kind):
        yield from _structs(inner)


def _comments(struct: type[Struct]) -> dict[str, str]:
    """What is written beside each field, or in the lines above it."""
    found: dict[str, str] = {}
    for base in struct.__mro__:
        if getattr(sys.modules[base.__module__], base.__name__, None) is not base:
            continue  # made by `narrow`: it has no source
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
        if "$ref" in properties[name]:  # beside which nothing may stand
            properties[name] = {"allOf": [properties[name]]}
        properties[name]["description"] = comments[name]
        if EXTENSION.match(comments[name]):
            properties[name]["x-extension"] = True


def _mend(schema: Any) -> Any:
    """Bytes are not base64 here, and a $ref is not a type among others."""
    if isinstance(schema, list):
        return [_mend(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return dict(BYTES)
    return {name: _mend(one) for name, one in schema.items() if name != "discriminator"}

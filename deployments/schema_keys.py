"""Keys and choices of a parsed YAML file, compared with the types that describe it."""

import types
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A key is unknown, or its value is invalid. The text starts with the path of the key."""


def check_keys(value: object, schema: Any, *, path: str) -> None:
    """Raise ConfigError at the first key that `schema` lacks, or value that is not a choice.

    `schema` is a type annotation. The fields of msgspec's and of pydantic's classes are followed,
    through lists and unions. Other types and values pass: their parser checks them.
    """
    schema = without_annotations(schema)
    arguments = get_args(schema)
    if get_origin(schema) in (Union, types.UnionType):
        _check_union(value, arguments, path=path)
    elif get_origin(schema) is Literal:
        check_choice(value, arguments, path=path)
    elif isinstance(value, bool) and schema in (int, float):  # pydantic takes `true` for 1
        raise ConfigError(f"{path}: {str(value).lower()}, expected a number")
    elif isinstance(value, list) and get_origin(schema) in (list, tuple):
        for index, item in enumerate(value):
            check_keys(item, arguments[0], path=f"{path}[{index}]")
    elif fields := fields_of(schema):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {value!r}, expected a mapping")
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in fields:
                raise ConfigError(f"{where}: unknown key, {suggest(str(key), list(fields))}")
            check_keys(item, fields[key], path=where)


def _check_union(value: object, schemas: Iterable[Any], *, path: str) -> None:
    """Raise ConfigError for a value that fits no arm of a union. None fits all."""
    arms = [without_annotations(arm) for arm in schemas if arm is not types.NoneType]
    if value is None:
        return
    if len(arms) == 1:
        check_keys(value, arms[0], path=path)
        return
    literals = [choice for arm in arms if get_origin(arm) is Literal for choice in get_args(arm)]
    types_beside = [arm for arm in arms if get_origin(arm) is not Literal]
    if literals and isinstance(value, str) and value not in literals and str not in types_beside:
        names = ", ".join([*map(repr, literals), *(arm.__name__ for arm in types_beside)])
        raise ConfigError(f"{path}: {value!r} is not a choice, expected one of {names}")
    if isinstance(value, bool) and bool in types_beside:
        return
    for arm in types_beside:
        if isinstance(value, dict) or not fields_of(arm):
            check_keys(value, arm, path=path)


def check_choice(value: object, choices: Iterable[object], *, path: str) -> None:
    """Raise ConfigError, with all choices, unless the value is one of them."""
    known = list(choices)
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ConfigError(f"{path}: {value!r} is not a choice, expected one of {listed}")


def without_annotations(schema: Any) -> Any:
    """The type inside `Annotated`."""
    return get_args(schema)[0] if get_origin(schema) is Annotated else schema


def fields_of(schema: Any) -> dict[str, Any]:
    """The types of a class's fields, by name; empty for a class of another kind."""
    names: Iterable[str] = getattr(schema, "__struct_fields__", getattr(schema, "model_fields", ()))
    hints = get_type_hints(schema) if names else {}
    return {name: hints[name] for name in names}


def suggest(key: str, known: list[str]) -> str:
    """The nearest known key, or all of them. Upper and lower case are alike."""
    by_lower = {name.lower(): name for name in known}
    if near := get_close_matches(key.lower(), by_lower, n=1):
        return f"did you mean '{by_lower[near[0]]}'?"
    return f"expected one of {', '.join(sorted(known))}"

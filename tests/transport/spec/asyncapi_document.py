"""The AsyncAPI document as the code builds it, and messages against its schemas."""

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from transport.spec.asyncapi import build_asyncapi

DOCUMENT = build_asyncapi()
SCHEMAS = DOCUMENT["components"]["schemas"]
MESSAGES = DOCUMENT["components"]["messages"]


def of_type(validator, kind, instance, schema):
    """JSON Schema's types, where bytes are the strings of binary format, and only these."""
    is_binary = kind == "string" and schema.get("format") == "binary"
    good = isinstance(instance, bytes) if is_binary else validator.is_type(instance, kind)
    if not good:
        yield ValidationError(f"{instance!r} is not of type {kind}")


Validator = extend(Draft7Validator, {"type": of_type})


def errors_of(fields):
    """The errors of a message by the schema of its tag."""
    schema = {"components": DOCUMENT["components"]} | MESSAGES[fields["type"]]["payload"]
    return [error.message for error in Validator(schema).iter_errors(fields)]

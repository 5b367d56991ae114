from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct
from pydantic import BaseModel

from deployments.schema_keys import ConfigError, check_keys


class Leaf(BaseModel):
    size: int = 1
    kind: Literal["big", "small"] | None = None


class Tree(Struct):
    leaves: Annotated[list[Leaf], Meta(max_length=9)] = []
    named: dict | Leaf | None = None
    free: dict = {}
    count: Literal["auto"] | int = 1


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"leaves": [{"size": 2}, {"kind": "big"}, {"kind": None}]},
        {"named": None, "free": {"anything": {"size": 1}}, "count": 3},
        {"leaves": "not a list", "named": 7},  # a parser's business
    ],
)
def test_known_keys_and_choices_pass(value):
    check_keys(value, Tree, path="")


@pytest.mark.parametrize(
    "value, reason",
    [
        ({"leaves": [7]}, "leaves[0]: 7, expected a mapping"),
        ({"count": "Auto"}, "count: 'Auto' is not a choice, expected one of 'auto', int"),
        ({"leafs": []}, "leafs: unknown key, did you mean 'leaves'?"),
        ({"LEAVES": []}, "LEAVES: unknown key, did you mean 'leaves'?"),
        ({"qqqq": 1}, "qqqq: unknown key, expected one of count, free, leaves, named"),
        ({8000: 1}, "8000: unknown key, expected one of count, free, leaves, named"),
        ({"leaves": [{}, {"siez": 1}]}, "leaves[1].siez: unknown key, did you mean 'size'?"),
        ({"named": {"sizes": 1}}, "named.sizes: unknown key, did you mean 'size'?"),
        (
            {"leaves": [{"kind": "bgi"}]},
            "leaves[0].kind: 'bgi' is not a choice, expected one of 'big', 'small'",
        ),
    ],
)
def test_the_first_wrong_key_or_choice_is_named_by_its_path(value, reason):
    with pytest.raises(ConfigError) as raised:
        check_keys(value, Tree, path="")
    assert str(raised.value) == reason

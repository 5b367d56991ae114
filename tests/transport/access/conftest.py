"""A world whose clients need tokens."""

import json
from contextlib import contextmanager

import pytest

from transport.access import Access
from transport.access_config import AccessConfig
from transport.tokens import Tokens


@pytest.fixture
def write_tokens(tmp_path):
    """Writes the file of tokens; returns its name."""
    file = tmp_path / "tokens.yaml"

    def write(*names, **limits):
        entries = [
            {"name": name, "token": f"{name}-0123456789abcdef", "limits": limits} for name in names
        ]
        file.write_text(json.dumps(entries))
        return str(file)

    return write


@pytest.fixture
def guard(world, serve, write_tokens):
    """Serves the world to alice and bob, with these limits for each."""

    @contextmanager
    def guarding(allowed_origins=(), **limits):
        tokens = Tokens(AccessConfig(tokens_file=write_tokens("alice", "bob", **limits)))
        access = Access(allowed_origins=allowed_origins, tokens=tokens)
        with serve(world, access=access) as serving:
            yield serving.http

    return guarding


@pytest.fixture
def http(guard):
    with guard() as client:
        yield client

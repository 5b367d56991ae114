"""Importing a room must not drag its forbidden packages in, directly or through a dependency."""

import subprocess
import sys

import pytest

SERVER = {"ray", "starlette", "fastapi", "uvicorn", "websockets"}


@pytest.mark.parametrize(
    "room, banned",
    [
        ("lingbot.runtime.engine", SERVER),
        ("lingbot.verify", SERVER),
        ("lingbot.config", {"torch", "numpy"} | SERVER),
        ("deployments.config", {"torch", "numpy"} | SERVER),
        ("deployments.world_group", {"torch"}),
        ("deployments.transport", {"torch"}),
        ("transport.app", {"ray", "torch", "lingbot"}),
        ("transport.client", {"ray", "torch", "lingbot", "starlette"}),
        ("transport.wire.messages", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
        ("transport.wire.protocol", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
        ("transport.wire.controls", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
        ("transport.wire.pacing", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
    ],
)
def test_import_stays_inside_the_room(room, banned):
    code = f"import sys, {room}; print(*sorted(set(sys.modules) & {banned!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []

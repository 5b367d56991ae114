"""Importing a room must not import its forbidden packages, directly or through a dependency."""

import subprocess
import sys

import pytest

from lingbot.camera import motion
from transport.wire import controls

SERVER = {"ray", "starlette", "fastapi", "uvicorn", "websockets"}
CHECKPOINTS = {"diffusers", "transformers", "tokenizers", "ftfy"}  # the extra `[checkpoints]`
PURE = {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}

IMPORT_ALL = """
import importlib, pkgutil, sys
room = importlib.import_module({room!r})
for found in pkgutil.walk_packages(getattr(room, "__path__", []), {room!r} + "."):
    importlib.import_module(found.name)
print(*sorted(set(sys.modules) & {banned!r}))
"""


@pytest.mark.parametrize(
    "room, banned",
    [
        ("lingbot.config", {"torch", "numpy"} | SERVER),
        ("lingbot", SERVER | CHECKPOINTS),
        ("lingbot.checkpoint.layout", {"torch", "numpy"} | SERVER),
        ("lingbot.runtime.scheduler", PURE),
        ("lingbot.vae.memory", {"torch", "numpy"}),
        ("transport.wire", PURE),
        ("deployments.sessions", PURE),
        ("transport.app", {"ray", "torch", "lingbot"}),
        ("transport.client", {"ray", "torch", "lingbot", "starlette", "anyio", "gymnasium"}),
        ("transport.gym", {"ray", "torch", "lingbot", "starlette", "anyio"}),
        ("deployments.config", {"torch", "numpy"} | SERVER),
        ("deployments.transport", {"torch"}),
        ("deployments.world_group", {"torch"}),
    ],
)
def test_import_stays_inside_the_room(room, banned):
    """A room is a module, or a folder with all its modules."""
    code = IMPORT_ALL.format(room=room, banned=banned)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_both_rooms_have_the_same_keys():
    """In the same order: an action of one room is an action of the other."""
    assert controls.KEYS == motion.KEYS

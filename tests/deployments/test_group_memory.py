import asyncio

import pytest
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.group_memory import GroupMemory, describe_memory
from lingbot.config import PRESETS
from lingbot.memory_plan import plan_memory
from transport.wire.errors import WorldFailed

POCKET = PRESETS["pocket"]
PLAN = plan_memory(POCKET, POCKET.world, vae="tiny", itemsize=4, free=2**30)
MEMORY = describe_memory(PLAN)


class FakeGroup:
    """Answers with its plan once `answering` is set; raises `errors` before."""

    def __init__(self, *errors):
        self.memory, self.errors, self.num_calls = self, list(errors), 0
        self.answering = asyncio.Event()

    async def remote(self):
        self.num_calls += 1
        if self.errors:
            raise self.errors.pop()
        await self.answering.wait()
        return MEMORY


async def is_up():
    return True


def test_the_numbers_are_those_of_the_plan():
    assert MEMORY.weight_bytes + MEMORY.vae_bytes + MEMORY.activation_bytes == PLAN.fixed
    (session,) = MEMORY.sessions
    assert (session.width, session.height) == (208, 128)
    parts = (session.kv_bytes, session.prompt_bytes, session.vae_bytes, session.image_bytes)
    assert sum(parts) == PLAN.largest.total
    assert session.num_fitting == PLAN.num_fitting(PLAN.largest) > 10


def test_a_group_is_asked_once():
    async def check():
        group = FakeGroup()
        group.answering.set()
        memory = GroupMemory(group, ready=is_up)
        assert [await memory.ask() for _ in range(3)] == [MEMORY] * 3
        assert group.num_calls == 1

    asyncio.run(check())


def test_nobody_waits_long_for_a_group_that_is_full_and_a_later_answer_is_kept():
    async def check():
        group = FakeGroup()
        memory = GroupMemory(group, ready=is_up, answer_timeout_s=0.01)
        assert [await memory.ask() for _ in range(3)] == [None] * 3
        group.answering.set()
        assert await memory.ask() == MEMORY
        assert group.num_calls == 1

    asyncio.run(check())


@pytest.mark.parametrize("error", [None, WorldFailed("no weights")])
def test_a_group_that_is_not_up_is_not_called(error):
    async def ready():
        if error:
            raise error
        return False

    async def check():
        group = FakeGroup()
        assert await GroupMemory(group, ready=ready).ask() is None
        assert group.num_calls == 0

    asyncio.run(check())


def test_after_an_error_the_next_question_asks_again():
    async def check():
        group = FakeGroup(DeploymentUnavailableError("WorldGroup"))
        group.answering.set()
        memory = GroupMemory(group, ready=is_up)
        assert [await memory.ask(), await memory.ask()] == [None, MEMORY]

    asyncio.run(check())

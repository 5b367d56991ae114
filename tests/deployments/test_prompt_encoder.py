"""Calls of the text encoder, on a handle that the test controls."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt
from deployments.prompt_encoder import PromptEncoder
from tests.deployments.fakes import FakeReadiness
from transport.wire.errors import Busy, WorldFailed, WorldLost

CONTEXT = EncodedPrompt(np.ones((2, 4), np.float32))


class FakeCall:
    """A response of a handle: awaited for its result, and cancelled."""

    def __init__(self):
        self.result = asyncio.get_running_loop().create_future()
        self.cancelled = False

    def __await__(self):
        return (yield from asyncio.shield(self.result).__await__())

    def cancel(self):
        self.cancelled = True


class FakeHandle:
    """Answers calls with `answers`, in this order; without one, a call hangs."""

    def __init__(self, *answers):
        self.answers, self.prompts, self.calls = list(answers), [], []
        self.encode = self

    def remote(self, prompt):
        self.prompts.append(prompt)
        self.calls.append(FakeCall())
        if self.answers:
            answer = self.answers.pop(0)
            fail, succeed = self.calls[-1].result.set_exception, self.calls[-1].result.set_result
            (fail if isinstance(answer, Exception) else succeed)(answer)
        return self.calls[-1]


def run(scenario, *answers, ready=(True,), **config):
    """Run `scenario(encoder, handle)`."""

    async def run_in_loop():
        handle = FakeHandle(*answers)
        encoder = PromptEncoder(
            handle,
            ServiceConfig(**config),
            readiness=FakeReadiness(ready),
            notice_period_s=0.01,
        )
        await asyncio.wait_for(scenario(encoder, handle), 60)

    asyncio.run(run_in_loop())


def test_a_prompt_becomes_its_context():
    async def scenario(encoder, handle):
        assert await encoder.encode("snow") is CONTEXT
        assert handle.prompts == ["snow"]

    run(scenario, CONTEXT)


def test_a_call_whose_replica_died_is_repeated_once():
    async def scenario(encoder, handle):
        assert await encoder.encode("snow") is CONTEXT
        with pytest.raises(WorldLost, match="^the text encoder died$"):
            await encoder.encode("rain")
        assert handle.prompts == ["snow", "snow", "rain", "rain"]

    run(scenario, ActorDiedError(), CONTEXT, ActorDiedError(), ActorDiedError())


@pytest.mark.parametrize(
    "failure, expected, text",
    [
        (
            RayTaskError("encode", "Traceback", ValueError("a secret")),
            WorldFailed,
            "encoder failed$",
        ),
        (BackPressureError(8, 8), Busy, "too many prompts"),
        (RayError("gone"), WorldLost, "the text encoder was lost"),
    ],
)
def test_a_call_that_fails_raises_its_reason(failure, expected, text):
    async def scenario(encoder, handle):
        with pytest.raises(expected, match=text) as raised:
            await encoder.encode("snow")
        assert "secret" not in str(raised.value) and len(handle.calls) == 1
        assert (raised.value.retry_after_s is not None) == (expected is Busy)

    run(scenario, failure)


@pytest.mark.parametrize("before", [True, False])
def test_a_client_hears_why_serve_gave_up(before):
    """Serve refuses calls of a deployment that it has given up, and leaves earlier ones waiting."""

    async def scenario(encoder, handle):
        with pytest.raises(WorldFailed, match="no folder"):
            await encoder.encode("snow")
        assert before or handle.calls[0].cancelled

    answers = [DeploymentUnavailableError("TextEncoder")] if before else []
    run(scenario, *answers, ready=[WorldFailed("the text encoder failed to start: no folder")])


def test_a_cold_start_may_take_longer_than_an_answer():
    async def scenario(encoder, handle):
        encoding = asyncio.create_task(encoder.encode("snow"))
        await asyncio.sleep(0.2)
        assert not encoding.done()
        handle.calls[0].result.set_result(CONTEXT)
        assert await encoding is CONTEXT

    run(scenario, ready=[False], step_timeout_s=0.05, warm_up_timeout_s=60)


@pytest.mark.parametrize(
    "ready, warm_up_timeout_s, expected, text",
    [
        ([True], 60, WorldLost, r"did not answer for 0\.05 s"),
        ([False] * 5 + [True], 60, WorldLost, r"did not answer for 0\.05 s"),
        ([False], 0.1, Busy, r"still warming up; gave up after 0\.1 s"),
    ],
)
def test_a_call_that_hangs_ends_with_a_reason_and_is_cancelled(
    ready, warm_up_timeout_s, expected, text
):
    async def scenario(encoder, handle):
        with pytest.raises(expected, match=text) as raised:
            await encoder.encode("snow")
        assert handle.calls[0].cancelled and len(handle.calls) == 1
        assert (raised.value.retry_after_s is not None) == (expected is Busy)

    run(scenario, ready=ready, step_timeout_s=0.05, warm_up_timeout_s=warm_up_timeout_s)


def test_a_caller_that_leaves_cancels_its_call():
    async def scenario(encoder, handle):
        encoding = asyncio.create_task(encoder.encode("snow"))
        while not handle.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        encoding.cancel()
        await asyncio.wait([encoding])
        assert encoding.cancelled() and handle.calls[0].cancelled
        handle.calls[0].result.set_exception(RayError("late"))  # read by nobody, and no error
        await asyncio.sleep(0)

    run(scenario)

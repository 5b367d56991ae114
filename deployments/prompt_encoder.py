"""The TextEncoder deployment as its callers see it: prompts to contexts, with reasons."""

import asyncio
import logging
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.calls import call_detached, cancel
from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt
from deployments.readiness import Readiness
from transport.wire.errors import RETRY_AFTER_S, Busy, TransportError, WorldFailed, WorldLost
from transport.wire.messages import Starting
from transport.wire.world import OnWait

NUM_TRIES = 2  # encoding changes nothing, so that a call may be repeated when its replica has died

logger = logging.getLogger(__name__)


class PromptEncoder:
    """Encodes prompts on any replica of the TextEncoder deployment, which may have none running."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        config: ServiceConfig,
        *,
        readiness: Readiness | None = None,
        notice_period_s: float = 0.5,
    ) -> None:
        """The deployment's state is read every `notice_period_s` while a call waits."""
        self._handle = handle
        self._readiness = readiness or Readiness(
            handle.app_name, handle.deployment_name, subject="the text encoder"
        )
        self._notice_period_s = notice_period_s
        self._start_timeout_s = config.warm_up_timeout_s
        self._answer_timeout_s = config.step_timeout_s

    async def encode(self, prompt: str) -> EncodedPrompt:
        """Raises Busy, WorldLost or WorldFailed, whose texts are for the client.

        A call that is cancelled is cancelled on the replica, too.
        """
        for _ in range(NUM_TRIES):
            call = call_detached(self._handle.encode, prompt)
            try:
                return await self._result_of(call)
            except RayTaskError as exc:
                logger.exception("the text encoder raised")
                raise WorldFailed("the text encoder failed") from exc
            except RayActorError as exc:
                logger.warning("the text encoder died: %s", exc)
            except BackPressureError as exc:
                text = "too many prompts wait for the text encoder"
                raise Busy(text, retry_after_s=RETRY_AFTER_S) from exc
            except (RayError, RayServeException) as exc:
                await self._readiness.ask()  # raises the reason if Serve has given up
                raise WorldLost("the text encoder was lost") from exc
            except BaseException:
                cancel(call)
                raise
        raise WorldLost("the text encoder died")

    async def _result_of(self, call: Any) -> EncodedPrompt:
        """Wait for a call, as long as a cold start or one encoding may take."""
        # To cancel the future itself would make Ray's callback for a late answer fail.
        result: asyncio.Future[EncodedPrompt] = asyncio.ensure_future(call)
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        now = asyncio.get_running_loop().time
        since, was_ready = now(), False
        while not (await asyncio.wait([result], timeout=self._notice_period_s))[0]:
            ready = await self._readiness.ask()
            if ready != was_ready:
                since, was_ready = now(), ready
            if error := self._give_up(now() - since, ready=ready):
                raise error
        return result.result()

    def _give_up(self, waited_s: float, *, ready: bool) -> TransportError | None:
        if ready and waited_s > self._answer_timeout_s:
            return WorldLost(f"the text encoder did not answer for {self._answer_timeout_s:g} s")
        if not ready and waited_s > self._start_timeout_s:
            text = "the text encoder is still warming up"
            return Busy(
                f"{text}; gave up after {self._start_timeout_s:g} s", retry_after_s=RETRY_AFTER_S
            )
        return None


def start_encoding(prompts: PromptEncoder, prompt: str) -> "asyncio.Task[EncodedPrompt]":
    """The call of `encode` in the background. Its error may stay unread."""
    encoding = asyncio.create_task(prompts.encode(prompt))
    encoding.add_done_callback(lambda done: done.cancelled() or done.exception())
    return encoding


async def wait_for_prompt(
    encoding: "asyncio.Task[EncodedPrompt]", on_wait: OnWait, *, period_s: float
) -> EncodedPrompt:
    """Send the client its status until the prompt is encoded. Raises the encoder's error."""
    while not (await asyncio.wait([encoding], timeout=period_s))[0]:
        await on_wait(Starting())
    return encoding.result()

"""The deployment's class, run in this process on a ten-line encoder, and once on a tiny umT5."""

import asyncio
import threading

import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.text_encoder import TextEncoder, load_encoder
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import save_dit
from lingbot.errors import LingbotError
from tests.deployments.umt5_world import SHAPE
from tests.lingbot.tiny_umt5 import write_diffusers, write_original
from tests.waiting import until


class FakeEncoder:
    """A context's only row is the prompt's length. Encoding waits for `gate`."""

    def __init__(self):
        self.encoded, self.num_running, self.most_running = [], 0, 0
        self.gate, self.error = threading.Event(), None
        self.gate.set()

    def encode(self, prompt):
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        self.encoded.append(prompt)
        self.gate.wait(60)
        self.num_running -= 1
        if self.error:
            raise self.error
        return np.full((1, 4), len(prompt), np.float32)

    def num_truncated(self, prompt):
        return max(0, len(prompt) - 10)


def run(scenario, **config):
    async def run_in_loop():
        encoder = FakeEncoder()
        deployment = TextEncoder(ServiceConfig(**config), load=lambda: encoder)
        await asyncio.wait_for(scenario(deployment, encoder), 120)

    asyncio.run(run_in_loop())


def test_a_prompt_becomes_a_context_and_what_was_cut():
    async def scenario(deployment, encoder):
        encoded = await deployment.encode("a long prompt")
        assert (encoded.context == 13).all() and encoded.num_truncated == 3
        deployment.check_health()

    run(scenario)


def test_prompts_that_clean_to_one_text_are_encoded_once():
    async def scenario(deployment, encoder):
        first = await deployment.encode("fish &amp; chips")
        assert await deployment.encode("  fish &amp;amp;  chips ") is first
        assert await deployment.encode("fish") is not first
        assert encoder.encoded == ["fish &amp; chips", "fish"]

    run(scenario)


def test_a_prompt_is_cleaned_once():
    """Cleaning twice would undo more escapes than the reference does."""

    async def scenario(deployment, encoder):
        await deployment.encode("&amp;amp;amp;lt;")
        assert encoder.encoded == ["&amp;amp;amp;lt;"]

    run(scenario)


def test_without_a_budget_each_call_encodes():
    async def scenario(deployment, encoder):
        for _ in range(2):
            await deployment.encode("snow")
        assert encoder.encoded == ["snow", "snow"]

    run(scenario, text_cache_bytes=0)


def test_equal_prompts_at_once_share_one_encoding():
    async def scenario(deployment, encoder):
        encoder.gate.clear()
        calls = [asyncio.create_task(deployment.encode("snow")) for _ in range(5)]
        await until(lambda: encoder.encoded)
        await asyncio.sleep(0.05)
        encoder.gate.set()
        first, *others = await asyncio.gather(*calls)
        assert encoder.encoded == ["snow"] and all(one is first for one in others)

    run(scenario)


def test_one_prompt_is_encoded_at_a_time_and_the_event_loop_stays_free():
    async def scenario(deployment, encoder):
        encoder.gate.clear()
        calls = [asyncio.create_task(deployment.encode(f"snow {number}")) for number in range(5)]
        await until(lambda: len(deployment._running) == 5)  # nothing blocks the loop
        await until(lambda: encoder.encoded)  # in a thread, a moment later
        assert len(encoder.encoded) == 1
        encoder.gate.set()
        await asyncio.gather(*calls)
        assert encoder.most_running == 1 and len(encoder.encoded) == 5

    run(scenario)


def test_a_stored_prompt_does_not_wait_for_another_encoding():
    async def scenario(deployment, encoder):
        await deployment.encode("snow")
        encoder.gate.clear()
        slow = asyncio.create_task(deployment.encode("rain"))
        await until(lambda: "rain" in encoder.encoded)
        assert (await deployment.encode("snow")).num_truncated == 0
        assert not slow.done()
        encoder.gate.set()
        await slow

    run(scenario)


def test_a_caller_that_leaves_does_not_end_the_encoding_of_others():
    async def scenario(deployment, encoder):
        encoder.gate.clear()
        leaves, stays = (asyncio.create_task(deployment.encode("snow")) for _ in range(2))
        await until(lambda: encoder.encoded)
        await asyncio.sleep(0.05)  # both wait for it
        leaves.cancel()
        await asyncio.wait([leaves])
        encoder.gate.set()
        assert (await stays).context.shape == (1, 4) and leaves.cancelled()
        assert deployment._running == {}

    run(scenario)


def test_an_error_about_one_prompt_leaves_the_replica_as_it_is():
    async def scenario(deployment, encoder):
        encoder.error = ValueError("a lone surrogate")
        with pytest.raises(ValueError, match="surrogate"):
            await deployment.encode("snow")
        deployment.check_health()

    run(scenario)


def test_an_encoder_that_failed_is_unhealthy_and_its_error_reaches_the_callers():
    async def scenario(deployment, encoder):
        encoder.error = RuntimeError("out of memory")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                await deployment.encode("snow")
        with pytest.raises(RuntimeError, match="out of memory"):
            deployment.check_health()
        assert encoder.encoded == ["snow", "snow"] and deployment._running == {}

    run(scenario)


@pytest.mark.parametrize("write", [write_original, write_diffusers])
@pytest.mark.parametrize("place", ["dit", "assets"])
def test_the_text_encoder_of_a_checkpoint_is_found(tmp_path, write, place):
    """It lies beside the DiT, or in a folder of its own."""
    save_dit(WorldModel(SHAPE), tmp_path / "dit")
    write(tmp_path / place)
    folders = {"weights": str(tmp_path / "dit")}
    if place == "assets":
        folders["assets"] = str(tmp_path / place)
    encoder = load_encoder(ServiceConfig(preset="v2-14b", **folders))
    assert encoder.encode("a forest at dusk").shape == (5, 32)
    assert encoder.num_truncated("snow " * 600) == 600 - 511


@pytest.mark.parametrize(
    "missing, reason",
    [
        ("models_t5_tiny.pth", "no umT5, expected models_t5"),
        ("google/umt5-xxl/tokenizer.json", r"no tokenizer\.json, expected"),
    ],
)
def test_a_missing_part_is_named(tmp_path, missing, reason):
    save_dit(WorldModel(SHAPE), tmp_path)
    write_original(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(LingbotError, match=reason):
        load_encoder(ServiceConfig(preset="v2-14b", weights=str(tmp_path)))


def test_a_preset_without_weights_of_its_own_needs_a_folder():
    with pytest.raises(LingbotError, match="'v2-14b' needs a folder of weights"):
        load_encoder(ServiceConfig(preset="v2-14b"))

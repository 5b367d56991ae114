"""Programs in the pocket world: environments, saved worlds, and a client whose socket is lost."""

import asyncio
from contextlib import closing

import numpy as np
import pytest

from tests.transport.client.conftest import Relay
from transport.client import Reconnected, connect
from transport.gym import WorldEnv, WorldVectorEnv

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("server")]

W = ["w"]
# A restored world differs by its decoder and its KV window; `benchmarks.portable` measures it.
MIN_PSNR = 40


def psnr(one, other):
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def press(*keys):
    return np.array([key in keys for key in "wasdijkl"], np.int8)


def walk(env, *actions):
    return np.stack([env.step(press(*keys))[0] for keys in actions])


def test_an_environment_is_deterministic_and_its_states_go_on_as_it_does(server):
    with closing(WorldEnv(server.ws)) as env:
        first, _ = env.reset(seed=7)
        walked = walk(env, "w", "wl", "")
        state = env.clone_state()
        going_on = walk(env, "w", "w")
        again, _ = env.reset(seed=7)
        assert np.array_equal(first, again)
        assert np.array_equal(walk(env, "w", "wl", ""), walked)
        shown, info = env.restore_state(state)
        assert info == {"world_chunk_index": 4, "seed": 7}
        assert psnr(shown[-1], walked[-1][-1]) > MIN_PSNR  # a JPEG of it
        restored = walk(env, "w", "w")
        env.restore_state(state)
        assert np.array_equal(walk(env, "w", "w"), restored)
    assert all(psnr(*pair) > MIN_PSNR for pair in zip(restored, going_on, strict=True))


def test_forks_of_one_world_take_different_ways(server):
    with closing(WorldEnv(server.ws)) as env, closing(WorldVectorEnv(3, server.ws)) as futures:
        env.reset(seed=7)
        walk(env, "w")
        futures.reset(options={"fork": env.fork()})
        frames, *_ = futures.step(np.stack([press("w"), press("w"), press("j")]))
        going_on = walk(env, "w")
    assert np.array_equal(frames[0], frames[1]) and psnr(frames[0], frames[2]) < 35
    assert psnr(frames[0], going_on[0]) > MIN_PSNR


def test_a_script_over_two_sockets_shows_the_same_walk(server):
    num_chunks, cut_after = 7, 3
    init = {"seed": 7, "realtime_delivery": "on_demand"}
    script = {"camera_actions": [W] * 3 * num_chunks}

    async def record(url, *, relay=None):
        news, chunks = [], []
        async with connect(url, on_news=news.append, condition_inputs=script, **init) as client:
            while len(chunks) < num_chunks:
                chunks.append(await client.next_chunk())
                if relay is not None and len(chunks) == cut_after:
                    relay.cut()
        return chunks, [one for one in news if isinstance(one, Reconnected)]

    async def scenario():
        whole, _ = await record(server.ws)
        relay = Relay(int(server.address.rpartition(":")[2]))
        await relay.start()
        try:
            cut, connected = await record(relay.url, relay=relay)
        finally:
            await relay.stop()
        return whole, cut, connected

    whole, cut, connected = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert len(connected) == 1 and connected[0].num_lost_chunks == 0
    assert [chunk.world_index for chunk in cut] == list(range(num_chunks))
    assert [chunk.applied.actions for chunk in cut] == [[W] * 3] * num_chunks
    for one, other in zip(cut, whole, strict=True):
        assert psnr(one.frames, other.frames) > MIN_PSNR


def test_a_world_is_turned_back_behind_the_loss_of_its_socket(server):
    """A rank hands over the last chunks of a world. Its transport has kept the others."""
    num_chunks, target = 12, 2
    script = {"camera_actions": [W] * 3 * num_chunks}

    async def scenario():
        news = []
        relay = Relay(int(server.address.rpartition(":")[2]))
        await relay.start()
        try:
            init = {"condition_inputs": script, "realtime_delivery": "on_demand"}
            async with connect(relay.url, on_news=news.append, **init) as client:
                for _ in range(num_chunks):
                    await client.next_chunk()
                relay.cut()
                while not any(isinstance(one, Reconnected) for one in news):
                    await asyncio.sleep(0.01)
                earliest = client.session.earliest_chunk_index
                rewound = await client.rewind(chunk_index=target)
                await client.send_actions([W] * 3)
                return earliest, rewound.world_chunk_index, await client.next_chunk()
        finally:
            await relay.stop()

    earliest, index, chunk = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert (earliest, index, chunk.world_index) == (0, target, target)

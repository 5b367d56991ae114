"""A client whose socket is lost, on a connection that can be cut."""

import asyncio

import pytest
from msgspec.structs import replace

from transport.client import Reconnected, Reconnecting, connect
from transport.client.news import describe
from transport.wire.errors import TransportError
from transport.wire.messages import Moved

W, A = ["w"], ["a"]
SCRIPT = [W] * 4 + [A] * 8
ON_DEMAND = {"realtime_delivery": "on_demand"}


@pytest.fixture
def run(world, listen, relay_to):
    """Runs a scenario with a relay to a server of the fake world."""

    def running(scenario):
        async def relayed(port):
            async with relay_to(port) as relay:
                return await asyncio.wait_for(scenario(relay), 60)

        with listen(world) as port:
            return asyncio.run(relayed(port))

    return running


async def has_news(news, kind):
    while not any(isinstance(one, kind) for one in news):
        await asyncio.sleep(0.005)


def keys_of(chunks):
    return [keys for chunk in chunks for keys in chunk.applied.actions]


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
def test_a_script_is_played_once_over_two_sockets(run, num_before):
    async def scenario(relay):
        news, chunks = [], []
        script = {"camera_actions": SCRIPT}
        async with connect(
            relay.url, on_news=news.append, condition_inputs=script, **ON_DEMAND
        ) as client:
            async for _ in client.wait():
                pass
            for number in range(4):
                if number == num_before:
                    relay.cut()
                chunks.append(await client.next_chunk())
            await has_news(news, Reconnected)
        return news, chunks

    news, chunks = run(scenario)
    assert [chunk.world_index for chunk in chunks] == [0, 1, 2, 3]
    assert keys_of(chunks) == SCRIPT
    assert [type(one) for one in news] == [Reconnecting, Reconnected]
    assert news[1].num_lost_chunks == 0


def test_chunks_that_come_before_the_world_is_turned_back_are_not_given_out(run):
    """In real time, a world goes on as soon as another socket has it."""

    async def scenario(relay):
        news, chunks = [], []
        script = {"camera_actions": SCRIPT}
        async with connect(relay.url, on_news=news.append, condition_inputs=script) as client:
            async for _ in client.wait():
                pass
            for number in range(5):
                if number == 1:
                    relay.cut()
                chunks.append(await client.next_chunk())
        return chunks

    chunks = run(scenario)
    assert [chunk.world_index for chunk in chunks] == list(range(5))
    assert keys_of(chunks)[: len(SCRIPT)] == SCRIPT


def test_a_world_that_has_moved_is_resumed_by_its_new_token(run, world):
    async def scenario(relay):
        async with connect(relay.url, **ON_DEMAND) as client:
            async for _ in client.wait():
                pass
            token = client.session.resume_token
            world.sessions["moved"] = world.sessions.pop(token)
            world.warnings.append(Moved(0, "moved"))
            await client.send_actions([W] * 6)
            await client.next_chunk()
            assert client.session.resume_token == "moved"
            relay.cut()
            return await client.next_chunk()

    assert run(scenario).world_index == 1


def test_a_chunk_that_has_arrived_and_was_not_taken_is_kept(run, world):
    async def scenario(relay):
        news = []
        async with connect(
            relay.url, on_news=news.append, condition_inputs={"camera_actions": SCRIPT}, **ON_DEMAND
        ) as client:
            chunks = await take(client, 1)
            while not client._inbox.chunks:
                await asyncio.sleep(0.005)
            relay.cut()
            await has_news(news, Reconnected)
            chunks += await take(client, 3)
        return chunks

    chunks = run(scenario)
    assert [chunk.world_index for chunk in chunks] == [0, 1, 2, 3]
    assert keys_of(chunks) == SCRIPT


def test_keys_are_held_in_each_chunk_of_a_world_in_real_time(run):
    async def scenario(relay):
        async with connect(relay.url, realtime_output_pacing=False) as client:
            await client.hold("w")
            chunks = await take(client, 4)
            while client._inbox.chunks:
                chunks += await take(client, 1)
            relay.cut()
            return chunks + await take(client, 4)

    chunks = run(scenario)
    assert [chunk.world_index for chunk in chunks] == list(range(len(chunks)))
    assert keys_of(chunks[1:]) == [W] * 3 * (len(chunks) - 1)


def test_held_keys_and_the_prompt_are_sent_again(run, world):
    async def scenario(relay):
        news = []
        async with connect(relay.url, on_news=news.append, **ON_DEMAND) as client:
            async for _ in client.wait():
                pass
            await client.hold("w")
            await client.next_chunk()
            relay.cut()
            await has_news(news, Reconnecting)
            await client.prompt("rain")  # while there is no socket
            return [await client.next_chunk() for _ in range(4)]

    chunks = run(scenario)
    assert all(keys == ["w"] for keys in keys_of(chunks))
    assert "rain" in [prompt for _, prompt in world.steps]


def test_a_save_that_the_loss_has_overtaken_is_asked_again(run):
    async def scenario(relay):
        async with connect(
            relay.url, condition_inputs={"camera_actions": [W] * 3}, **ON_DEMAND
        ) as client:
            await client.next_chunk()
            expected = await client.save()
            relay.cut()
            return expected, await client.save()

    expected, saved = run(scenario)
    assert saved == expected


def test_a_client_gives_up_when_the_world_is_kept_no_longer(run, world):
    world.info = replace(world.info, resume_grace_s=0.5)

    async def scenario(relay):
        async with connect(relay.url) as client:
            await client.next_chunk()
            relay.is_open = False
            relay.cut()
            with pytest.raises(TransportError, match="could not be resumed within 0.5 s"):
                async for _ in client.chunks():
                    pass
            with pytest.raises(TransportError, match="could not be resumed"):
                await client.save()
        return relay.num_connections

    run(scenario)


def test_a_session_that_is_gone_is_not_asked_for_again(run, world):
    async def scenario(relay):
        async with connect(relay.url) as client:
            await client.next_chunk()
            world.sessions.clear()
            relay.cut()
            with pytest.raises(TransportError) as gone:
                async for _ in client.chunks():
                    pass
        return gone.value.code, relay.num_connections

    assert run(scenario) == ("session_gone", 2)


def test_a_client_may_refuse_to_reconnect(run):
    async def scenario(relay):
        async with connect(relay.url, reconnect=False) as client:
            await client.next_chunk()
            relay.cut()
            with pytest.raises(TransportError, match="the connection broke, code 1006"):
                async for _ in client.chunks():
                    pass
        return relay.num_connections

    assert run(scenario) == 1


async def take(client, num):
    return [await client.next_chunk() for _ in range(num)]


def test_chunks_that_were_lost_on_the_way_are_generated_again(run, world):
    async def scenario(relay):
        news = []
        async with connect(relay.url, on_news=news.append, realtime_output_pacing=False) as client:
            chunks = await take(client, 3)
            await client.hold("w")
            world.decoding.clear()  # the world goes on, and no frame arrives
            num_steps = len(world.steps)
            while len(world.steps) == num_steps:
                await asyncio.sleep(0.005)
            relay.cut()
            await has_news(news, Reconnecting)
            world.decoding.set()
            chunks += await take(client, 6)
        return news, chunks

    news, chunks = run(scenario)
    assert [chunk.world_index for chunk in chunks] == list(range(9))
    (connected,) = [one for one in news if isinstance(one, Reconnected)]
    assert connected.num_lost_chunks == 0 and connected.world_chunk_index <= 4
    assert [command[1] for command in world.commands] == ["rewind"]


def test_a_world_that_cannot_be_turned_back_goes_on_where_it_is(run, world):
    async def scenario(relay):
        news = []
        async with connect(relay.url, on_news=news.append, **ON_DEMAND) as client:
            await client.send_actions([W] * 3)
            await take(client, 1)
            world.decoding.clear()
            await client.send_actions([A] * 9)
            while len(world.steps) < 3:  # two chunks may be without an ack
                await asyncio.sleep(0.005)
            world.earliest_chunk = 100  # before the cut: the client may be back at once
            relay.cut()
            await has_news(news, Reconnecting)
            world.decoding.set()
            chunk = await client.next_chunk()
        return news, chunk

    news, chunk = run(scenario)
    (connected,) = [one for one in news if isinstance(one, Reconnected)]
    assert connected.num_lost_chunks > 0
    assert chunk.world_index == connected.world_chunk_index == 1 + connected.num_lost_chunks
    assert "did not arrive" in describe(connected)


def test_a_server_process_that_goes_away_is_left_for_another(run, world):
    async def scenario(relay):
        news = []
        async with connect(
            relay.url, on_news=news.append, condition_inputs={"camera_actions": SCRIPT}, **ON_DEMAND
        ) as client:
            chunks = await take(client, 2)
            world.drains_because = "this process is being replaced"
            await has_news(news, Reconnecting)
            world.drains_because = None
            chunks += await take(client, 2)
        return chunks

    chunks = run(scenario)
    assert keys_of(chunks) == SCRIPT


def test_the_news_of_a_connection_are_one_line_each():
    for news in (Reconnecting("lost", 60.0), Reconnected(4, 0), Reconnected(6, 2), Moved(3)):
        assert "\n" not in describe(news)
    assert describe(Reconnecting("lost", 60.0)) == "lost; connecting again, for at most 60 s"

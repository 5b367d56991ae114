"""A walker whose world loses its rank, its group, its transport or its proxy, and goes on.

Each walk is compared with its twin: the same seed and keys on the same server, without a fault.
"""

import asyncio
import os
import re
import signal

import msgspec
import pytest

from benchmarks.dashboard import APPLICATIONS, ask_dashboard
from benchmarks.local_server import local_server, two_groups, wait_until_ready
from tests.deployments.session_list import all_sessions
from transport.client import Reconnected, connect
from transport.wire.messages import Moved

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.xdist_group("serve"),
    pytest.mark.timeout(600),  # a redeploy starts two groups one after the other, on two cores
]

STRIKE_AFTER, NUM_CHUNKS = 4, 9
LEAST_DB = 40.0  # of restored frames against those of the twin
NUM_COMPARED = 6  # chunks; two walks of a thousand frames drift apart
KEYS = [["w"], ["w", "l"], ["a"], ["j"], ["w"], ["d"], ["l"], ["s"], ["w", "j"]]
INIT = {
    "seed": 5,
    "realtime_output_format": "raw",
    "condition_inputs": {"camera_actions": [keys for keys in KEYS for _ in range(3)]},
}
GROUP, TRANSPORT = "ServeReplica:lingbot:WorldGroup", "ServeReplica:lingbot:Transport"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two groups, which both fit beside each other on two cores."""
    token_file = tmp_path_factory.mktemp("operator") / "token"
    token_file.write_text("s3cret")
    args = {
        "dtype": "float32",  # groups must not choose differently
        "threads": 1,
        "group": {"pace": "shared"},
        "limits": {},  # no walker is paused once its script is over
        "operator_token_file": str(token_file),
    }
    with local_server(args, change=two_groups) as running:
        until_groups(running, 2)
        yield running


@pytest.fixture(scope="module")
def twin(server):
    """The frames of each chunk of the walk without a fault."""
    walk = asyncio.run(asyncio.wait_for(walk_through(server, lambda: None), 120))
    assert walk.news == []
    return walk.frames


class Walk:
    """What one walker has received."""

    def __init__(self):
        self.indices, self.frames, self.news = [], [], []

    def assert_like(self, twin, psnr_of):
        """The twin's chunks, exactly until the fault, and closely after the world was restored."""
        assert self.indices == list(range(len(twin)))
        pairs = list(zip(self.frames, twin, strict=True))
        restored = [pair for pair in pairs if not (pair[0] == pair[1]).all()]
        assert all((frames == expected).all() for frames, expected in pairs[:STRIKE_AFTER])
        for frames, expected in restored[:NUM_COMPARED]:
            assert psnr_of(frames, expected) >= LEAST_DB


async def walk_through(server, strike, *, is_over=lambda walk: len(walk.frames) == NUM_CHUNKS):
    """A walk until it `is_over`. `strike` is called once some chunks have arrived."""
    walk = Walk()
    async with connect(server.ws, on_news=walk.news.append, **INIT) as client:
        async for chunk in client.chunks():
            walk.indices.append(chunk.world_index)
            walk.frames.append(chunk.frames)
            if len(walk.frames) == STRIKE_AFTER:
                await asyncio.to_thread(strike)
            if is_over(walk):
                assert len(await held(server)) == 1
                break
    walk.news = [one for one in walk.news if isinstance(one, Moved | Reconnected)]
    return walk


async def held(server):
    return await asyncio.to_thread(all_sessions, server)


def running_groups(server):
    """The process ids of the groups' replicas that run, by id."""
    details = ask_dashboard(server, APPLICATIONS)
    replicas = details["applications"]["lingbot"]["deployments"]["WorldGroup"]["replicas"]
    return {one["replica_id"]: one["pid"] for one in replicas if one["state"] == "RUNNING"}


def until(condition, *, timeout_s=120):
    async def wait():
        async with asyncio.timeout(timeout_s):
            while not (found := await asyncio.to_thread(condition)):
                await asyncio.sleep(0.2)
            return found

    return asyncio.run(wait())


def until_groups(server, number):
    until(lambda: len(running_groups(server)) == number)


def walk_and_settle(server, strike, **options):
    """A walk through a fault; afterwards no session is left, and two groups run."""
    walk = asyncio.run(asyncio.wait_for(walk_through(server, strike, **options), 180))
    until_groups(server, 2)
    until(lambda: all_sessions(server) == [])
    return walk


def group_of_the_walker(server):
    (session,) = all_sessions(server)
    return session["group"]


def rank_of(server, group):
    """The process id of a group's rank 0."""
    listed = ask_dashboard(server, "/api/v0/actors?limit=1000&detail=True")
    (pid,) = (
        actor["pid"]
        for actor in listed["data"]["result"]["result"]
        if actor["name"] == f"lingbot/{group}" and actor["state"] == "ALIVE"
    )
    return pid


def kill_rank(server):
    os.kill(rank_of(server, group_of_the_walker(server)), signal.SIGKILL)


def kill_group(server):
    os.kill(running_groups(server)[group_of_the_walker(server)], signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_rank, kill_group])
def test_a_world_whose_group_is_killed_goes_on_in_the_other_one(server, twin, psnr_of, kill):
    walk = walk_and_settle(server, lambda: kill(server))
    walk.assert_like(twin, psnr_of)
    assert [type(one) for one in walk.news] == [Moved]
    assert walk.news[0].world_chunk_index in (STRIKE_AFTER, STRIKE_AFTER + 1, STRIKE_AFTER + 2)


@pytest.mark.parametrize("victim", [TRANSPORT, "ray::ProxyActor"])
def test_a_client_whose_socket_is_cut_finds_its_world_again(server, twin, psnr_of, victim):
    def strike():
        for pid in server.descendants(victim):
            os.kill(pid, signal.SIGKILL)

    walk = walk_and_settle(server, strike)
    walk.assert_like(twin, psnr_of)
    assert [type(one) for one in walk.news] == [Reconnected]
    wait_until_ready(server)


def scale(server, number):
    config = msgspec.yaml.decode((server.folder / "serve_config.yaml").read_bytes())
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "WorldGroup":
            deployment["num_replicas"] = number
    ask_dashboard(server, APPLICATIONS, put=config)


def newest_group(server):
    """The one that Serve stops when it scales down."""
    details = ask_dashboard(server, APPLICATIONS)
    replicas = details["applications"]["lingbot"]["deployments"]["WorldGroup"]["replicas"]
    return max(replicas, key=lambda one: one["start_time_s"])["replica_id"]


def test_the_sessions_of_a_group_that_is_scaled_down_move_to_the_other(server, twin, psnr_of):
    newest = newest_group(server)

    class NotThere(Exception):
        """The walker is in the other group."""

    def strike():
        if group_of_the_walker(server) != newest:
            raise NotThere
        scale(server, 1)

    async def scenario():
        while True:
            try:
                return await walk_through(server, strike)
            except NotThere:
                while await held(server):
                    await asyncio.sleep(0.1)

    walk = asyncio.run(asyncio.wait_for(scenario(), 240))
    walk.assert_like(twin, psnr_of)
    assert [type(one) for one in walk.news] == [Moved]
    until_groups(server, 1)
    assert newest not in running_groups(server)
    until(lambda: all_sessions(server) == [])
    scale(server, 2)
    until_groups(server, 2)


def test_a_redeploy_of_all_replicas_keeps_the_walkers_world(server, psnr_of):
    before, ends = set(running_groups(server)), []

    def deploy():
        path = server.folder / "serve_config.yaml"
        config = msgspec.yaml.decode(path.read_bytes())
        config["applications"][0]["args"]["camera_cache_bytes"] = 64 * 2**20
        path.write_bytes(msgspec.yaml.encode(config))
        ask_dashboard(server, APPLICATIONS, put=config)

    def is_over(walk):
        """Some chunks after socket and world have gone to new replicas."""
        is_resumed = any(isinstance(one, Reconnected) for one in walk.news)
        if not ends and is_resumed and not before & set(running_groups(server)):
            ends.append(len(walk.frames) + 3)
        return ends and len(walk.frames) >= ends[0]

    walk = walk_and_settle(server, deploy, is_over=is_over)
    num_chunks = len(walk.frames)
    twin = walk_and_settle(
        server, lambda: None, is_over=lambda walk: len(walk.frames) == num_chunks
    )
    walk.assert_like(twin.frames, psnr_of)


def test_no_error_was_logged(server):
    """Faults are expected; exceptions that nobody has handled are not."""
    lines = server.log.read_text().splitlines()
    fault = re.compile(r"never retrieved|could not be moved|session \w+ failed")
    at = [number for number, line in enumerate(lines) if fault.search(line)]
    assert not at, "\n".join(lines[at[0] : at[0] + 40])

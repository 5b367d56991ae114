"""A fake world, whose sessions can be saved, forked, turned back, reset and resumed."""

import io
import threading

import anyio
import numpy as np
from msgspec import DecodeError, Struct, msgpack
from msgspec.structs import replace
from PIL import Image

from transport.wire.errors import Refused, SessionGone, TakenOver
from transport.wire.world import Opening, SavedWorld, WorldInfo, WorldSpec

FORK_TTL_S = 600


def png(width=20, height=10, color=(10, 20, 30)):
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


class FakeSnapshot(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the snapshot of a fake world has."""

    width: int
    height: int
    seed: int
    prompt: str
    chunk_index: int
    actions: list[list[str]]  # of each chunk


class FakeWorld:
    """Generates shades of grey and records each call. A step ends only while `running` is set.

    A chunk's shade is its index in the world, plus 1.
    """

    def __init__(self, size=(32, 16), *other_sizes):
        openings = (Opening(name="grey hill", prompt="a grey hill", image=png()),)
        self.info = WorldInfo(
            preset="fake",
            sizes=(size, *other_sizes),
            size_multiple=16,
            max_pixels=1 << 20,
            fps=60,
            chunk_latent_frames=3,
            first_chunk_frames=9,
            chunk_frames=12,
            max_window=21,
            sink=6,
            max_steps=4,
            openings=openings,
            resume_grace_s=60.0,
        )
        self.live, self.specs, self.images, self.steps = set(), [], [], []
        self.pauses = []  # (session, steps before it)
        self.unpauses = []
        self.on_open = self.on_step = self.on_encode = None  # errors to raise
        self.on_command = None  # raised by save, fork, rewind and reset
        self.encoded, self.num_encoding = [], 0
        self.encoding = threading.Event()  # an encode ends while it is set
        self.warnings = []
        self.paint = lambda shape, index: np.full(shape, index, np.uint8)
        self.plan = None  # of its memory
        self.failure = None  # raised by `ready`
        self.news = []  # sent to a client that waits
        self.lost_because = None
        self.drains_because = None
        self.running, self.stepping = threading.Event(), threading.Event()
        self.decoding = threading.Event()
        self.running.set()
        self.decoding.set()
        self.commands = []  # (session, name, arguments)
        self.forks = {}  # snapshots by token
        self.reading_threads = []  # in which snapshots were read
        self.sessions = {}  # resumable ones by token
        self.num_tokens = 0
        self.detached = set()  # names of those that wait for a socket
        self.earliest_chunk = 0

    async def open(self, spec, image, *, on_wait):
        await self._wait(on_wait)
        self.specs.append(spec)
        self.images.append(image)
        return FakeSession(self, spec, f"s{len(self.specs)}")

    def read_snapshot(self, data):
        self.reading_threads.append(threading.get_ident())
        try:
            snapshot = msgpack.decode(data, type=FakeSnapshot)
        except DecodeError as exc:
            raise Refused(f"`snapshot`: {exc}", field="snapshot") from exc
        if (snapshot.width, snapshot.height) not in self.info.sizes:
            raise Refused("`snapshot.width`: not served", field="snapshot.width")
        return self._saved(snapshot)

    async def open_snapshot(self, saved, *, on_wait, realtime=True, resumable=False):
        await self._wait(on_wait)
        snapshot = saved.world
        spec = WorldSpec(
            prompt=saved.prompt,
            seed=saved.seed,
            width=saved.width,
            height=saved.height,
            realtime=realtime,
            resumable=resumable,
        )
        self.specs.append(spec)
        return FakeSession(self, spec, f"s{len(self.specs)}", actions=snapshot.actions)

    async def read_fork(self, token):
        if token not in self.forks:
            raise SessionGone("this fork is gone", field="fork")
        return self.read_snapshot(self.forks[token])

    async def resume(self, token, *, on_wait, realtime=True):
        if token not in self.sessions:
            raise SessionGone("this session is gone", field="resume")
        await self._wait(on_wait)
        older = self.sessions.pop(token)
        older.is_taken_over = True
        self.detached.discard(older.id)
        spec = replace(older.spec, realtime=realtime)
        session = FakeSession(self, spec, older.id, actions=older.actions)
        session.prompt, session.seed = older.prompt, older.seed
        return session, self._saved(session.snapshot())

    async def draining(self):
        while self.drains_because is None:
            await anyio.sleep(0.005)
        return self.drains_because

    async def memory(self):
        return self.plan

    async def ready(self):
        if self.failure:
            raise self.failure
        return self.running.is_set()

    async def _wait(self, on_wait):
        for message in self.news:
            await on_wait(message)
        if self.on_open:
            raise self.on_open

    def _saved(self, snapshot):
        return SavedWorld(
            width=snapshot.width,
            height=snapshot.height,
            seed=snapshot.seed,
            prompt=snapshot.prompt,
            chunk_index=snapshot.chunk_index,
            num_steps=None,
            window=self.info.max_window,
            sink=self.info.sink,
            world=snapshot,
        )


class PendingFrames:
    """The frames of a session's last chunk, decoded once `decoding` is set."""

    def __init__(self, frames, session):
        self.frames, self.session = frames, session
        self.is_awaited = False

    def __await__(self):
        assert not self.is_awaited, "the frames of a chunk are awaited once"
        self.is_awaited = True
        return self.wait().__await__()

    async def wait(self):
        while not self.session.world.decoding.is_set():
            await anyio.sleep(0.005)
        self.session.has_latents = True
        return self.frames


class FakeSession:
    def __init__(self, world, spec, name, *, actions=()):
        self.world, self.spec, self.id = world, spec, name
        self.actions = [list(chunk) for chunk in actions]  # of each chunk of the world
        self.prompt = spec.prompt
        self.seed = spec.seed
        self.is_taken_over = self.is_stepping = False
        self.has_latents = True  # of all chunks
        self.last_frame = None
        if self.actions:
            self.last_frame = self._frames()[-1]
        self.age_s = 0.0
        self.resume_token = None
        if spec.resumable:
            world.num_tokens += 1
            self.resume_token = f"group.{name}.secret{world.num_tokens}"
            world.sessions[self.resume_token] = self
        world.live.add(name)

    @property
    def chunk_index(self):
        return len(self.actions)

    @property
    def earliest_chunk(self):
        return self.world.earliest_chunk

    async def step(self, actions, *, prompt, time_to_underrun_s):
        self.world.steps.append((list(actions), prompt))
        self.world.stepping.set()
        self.is_stepping = True
        while not self.world.running.is_set():
            await anyio.sleep(0.005)
        if self.world.on_step:
            raise self.world.on_step
        self.is_stepping = False
        self.prompt = prompt or self.prompt
        self.actions.append(list(actions))
        self.has_latents = False  # they come with the frames
        return PendingFrames(self._frames(), self)

    async def encode(self, prompt):
        self.world.encoded.append(prompt)
        self.world.num_encoding += 1
        try:
            while not self.world.encoding.is_set():
                await anyio.sleep(0.005)
        finally:
            self.world.num_encoding -= 1
        if self.world.on_encode:
            raise self.world.on_encode

    async def save(self):
        assert self.has_latents
        await self._command("save")
        return msgpack.encode(self.snapshot())

    async def fork(self):
        assert self.has_latents
        await self._command("fork")
        token = f"fork{len(self.world.forks)}"
        self.world.forks[token] = msgpack.encode(self.snapshot())
        return token, FORK_TTL_S

    async def rewind(self, chunk_index):
        await self._command("rewind", chunk_index)
        assert self.earliest_chunk <= chunk_index <= self.chunk_index
        del self.actions[chunk_index:]
        self.has_latents = True

    async def reset(self, *, seed, prompt):
        await self._command("reset", seed, prompt)
        self.seed, self.prompt = seed, prompt or self.prompt
        self.actions.clear()
        self.has_latents = True

    async def _command(self, name, *arguments):
        assert not self.is_stepping
        self.world.commands.append((self.id, name, *arguments))
        await anyio.sleep(0)
        if self.world.on_command:
            raise self.world.on_command

    def snapshot(self):
        return FakeSnapshot(
            width=self.spec.width,
            height=self.spec.height,
            seed=self.seed,
            prompt=self.prompt,
            chunk_index=self.chunk_index,
            actions=self.actions,
        )

    def take_notices(self):
        notices, self.world.warnings = self.world.warnings, []
        return notices

    async def lost(self):
        while self.world.lost_because is None:
            if self.is_taken_over:
                raise TakenOver("another socket goes on with this session")
            await anyio.sleep(0.005)
        return self.world.lost_because

    def pause(self):
        self.world.pauses.append((self.id, len(self.world.steps)))

    def unpause(self):
        self.world.unpauses.append(self.id)

    def close(self):
        if self.is_taken_over:
            return
        self.world.sessions.pop(self.resume_token, None)
        self.world.detached.discard(self.id)
        self.world.live.discard(self.id)

    def detach(self):
        if self.resume_token is None:
            self.close()
        elif not self.is_taken_over:
            self.world.detached.add(self.id)

    def _frames(self):
        """Those of the last chunk."""
        num_frames = 9 if self.chunk_index == 1 else 12
        shape = (num_frames, self.spec.height, self.spec.width, 3)
        return self.world.paint(shape, self.chunk_index)

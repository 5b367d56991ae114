"""Carries out what a client asks of its whole world, between two chunks."""

import math

import anyio

from transport.connection.chunk_slot import ChunkSlot
from transport.connection.sender import MessageSender
from transport.wire.errors import Refused, TransportError
from transport.wire.init import read_seed
from transport.wire.messages import Forked, Rewound, SnapshotMessage
from transport.wire.notice import WorldAnswer
from transport.wire.protocol import ServerProtocol
from transport.wire.world import WorldInfo, WorldSession
from transport.wire.world_command import (
    ForkWorld,
    ResetWorld,
    RewindWorld,
    SaveWorld,
    WorldCommand,
)


class WorldCommands:
    """The commands of one session. No chunk may be generated meanwhile."""

    def __init__(
        self,
        session: WorldSession,
        info: WorldInfo,
        *,
        protocol: ServerProtocol,
        sender: MessageSender,
        slot: ChunkSlot,
    ) -> None:
        assert protocol.request is not None
        self._session = session
        self._info = info
        self._protocol = protocol
        self._sender = sender
        self._slot = slot
        self._fps = protocol.request.fps
        self._seed = protocol.request.world.seed
        self.restarted_s = -math.inf  # when the world was turned back or reset last

    async def run(self, command: WorldCommand) -> None:
        """Answers the command. Raises errors that end the connection."""
        try:
            answer = await self._execute(command)
        except TransportError as error:
            if error.close_code is not None:
                raise
            refusal = self._protocol.send_refusal(error, event_id=command.event_id)
            await self._sender.send(refusal)
        else:
            await self._sender.send(self._protocol.send_notice(answer))

    async def _execute(self, command: WorldCommand) -> WorldAnswer:
        session, event_id = self._session, command.event_id
        match command.event:
            case SaveWorld():
                await self._wait_for_frames()
                data = await session.save()
                return SnapshotMessage(
                    event_id=event_id, world_chunk_index=session.chunk_index, data=data
                )
            case ForkWorld():
                await self._wait_for_frames()
                token, expires_in_s = await session.fork()
                return Forked(
                    event_id=event_id,
                    world_chunk_index=session.chunk_index,
                    token=token,
                    expires_in_s=expires_in_s,
                )
            case RewindWorld() as event:
                chunk_index = self._target_of(event)
                await self._slot.drop_waiting()
                await session.rewind(chunk_index)
            case ResetWorld() as event:
                seed = self._seed if event.seed is None else read_seed(event.seed)
                await self._slot.drop_waiting()
                await session.reset(seed=seed, prompt=event.prompt)
                self._seed = seed
        self._protocol.begin_course(command.course)
        self.restarted_s = anyio.current_time()
        return Rewound(event_id=event_id, world_chunk_index=session.chunk_index, seed=self._seed)

    async def _wait_for_frames(self) -> None:
        """The latents of a chunk come with its frames. A snapshot has both."""
        for chunk in self._slot.unsent:
            await chunk.frames

    def _target_of(self, event: RewindWorld) -> int:
        """The index of the next chunk. Raises Refused for one that is not in the history."""
        earliest, newest = self._session.earliest_chunk, self._session.chunk_index
        if event.seconds is not None:
            num_chunks = math.ceil(event.seconds * self._fps / self._info.chunk_frames)
            return max(earliest, newest - num_chunks)
        assert event.chunk_index is not None
        if not earliest <= event.chunk_index <= newest:
            field = "payload.chunk_index"
            raise Refused(
                f"`{field}`: {event.chunk_index}, expected {earliest} to {newest}", field=field
            )
        return event.chunk_index

"""Generates the chunks of one session, and carries out the client's commands between them.

Tested in `tests/transport/connection/test_world_commands.py`.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import anyio

from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk, SharedFrames
from transport.connection.close import HandedOver
from transport.connection.presence import Presence
from transport.connection.sender import MessageSender
from transport.connection.turn import Turn
from transport.connection.world_commands import WorldCommands
from transport.wire.messages import Moved, WarningMessage
from transport.wire.protocol import ServerProtocol
from transport.wire.world import WorldInfo, WorldSession


class ChunkGenerator:
    """Steps one session, as its media clock and its client ask for."""

    def __init__(
        self,
        session: WorldSession,
        info: WorldInfo,
        *,
        protocol: ServerProtocol,
        sender: MessageSender,
        slot: ChunkSlot,
        presence: Presence,
        turn: Turn,
        decoding_s: Callable[[], float],
        handed_over: Callable[[], str | None],
    ) -> None:
        """`turn` must be interrupted by commands, and when `handed_over` has a reason.

        `decoding_s` gives the time for which sending waited for the last chunk's frames.
        """
        self._session = session
        self._info = info
        self._protocol = protocol
        self._sender = sender
        self._slot = slot
        self._presence = presence
        self._turn = turn
        self._decoding_s = decoding_s
        self._handed_over = handed_over
        self._commands = WorldCommands(session, info, protocol=protocol, sender=sender, slot=slot)
        self._position = 0  # frames before the next chunk

    async def run(self, max_chunks: int | None) -> None:
        """Puts chunks into the slot, and closes it after the last one."""
        for index in itertools.islice(itertools.count(), max_chunks):
            waited_s = await self._wait_for_turn()
            await self._slot.put(await self._generate(index, waited_s=waited_s))
        while (wait_s := self._protocol.commands.wait_s(anyio.current_time())) < math.inf:
            await anyio.sleep(wait_s)
            await self._run_command()
        self._slot.close()

    async def _wait_for_turn(self) -> float:
        """Carries out commands until the next chunk may be generated.

        Returns the seconds that it waited since the last command.
        """
        while True:
            waited_s = await self._turn.wait()
            if (reason := self._handed_over()) is not None:
                await self._slot.drop_waiting()
                raise HandedOver(reason)
            if not await self._run_command() and self._may_generate():
                return waited_s

    def _may_generate(self) -> bool:
        return self._protocol.wait_to_generate_s(anyio.current_time()) <= 0

    async def _run_command(self) -> bool:
        """Carries out the next command, if there is one."""
        command = self._protocol.commands.take(anyio.current_time())
        if command is None:
            return False
        with self._presence.step_of(self._session):
            await self._commands.run(command)
        await self._send_notices(self._session.take_notices())
        return True

    async def _generate(self, index: int, *, waited_s: float) -> GeneratedChunk:
        protocol, session = self._protocol, self._session
        asked_s = anyio.current_time()
        controls = protocol.take_controls()
        world_index = session.chunk_index
        started_s = anyio.current_time()
        with self._presence.step_of(session):
            frames = await session.step(
                controls.actions,
                prompt=controls.prompt,
                time_to_underrun_s=protocol.time_to_underrun_s(started_s),
            )
        denoised_s = anyio.current_time()
        await self._send_notices(session.take_notices())
        num_frames = self._info.chunk_frames if world_index else self._info.first_chunk_frames
        news = protocol.chunk_generated(
            denoised_s,
            controls,
            num_frames=num_frames,
            took_s=denoised_s - started_s,
            decoding_s=self._decoding_s(),
        )
        await self._sender.send(news)
        chunk = GeneratedChunk(
            index=index,
            world_index=world_index,
            frames=SharedFrames(frames),
            num_frames=num_frames,
            position=self._position,
            controls=controls,
            begun_s=asked_s,
            resumed_s=max(self._presence.resumed_s, self._commands.restarted_s),
            waited_s=waited_s,
            prepared_s=started_s - asked_s,
            denoising_s=denoised_s - started_s,
            stall_s=protocol.stall_s,
        )
        self._position += num_frames
        return chunk

    async def _send_notices(self, notices: Sequence[WarningMessage | Moved]) -> None:
        for notice in notices:
            await self._sender.send(self._protocol.send_notice(notice))

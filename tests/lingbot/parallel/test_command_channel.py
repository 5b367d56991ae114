"""Two ranks, in real processes."""

import random

import torch.distributed as dist

from lingbot.parallel.command_channel import BUFFER_BYTES, CommandChannel
from lingbot.parallel.process_group import spawn_ranks


def messages():
    """Shorter and longer than the buffer, and of every length near its own."""
    near = range(BUFFER_BYTES - 60, BUFFER_BYTES + 10)
    lengths = [3 * BUFFER_BYTES, 0, *near, *reversed(near), 1]
    chance = random.Random(0)
    return [chance.randbytes(length) for length in lengths]


def broadcast(group):
    """The messages that rank 1 receives."""
    channel = CommandChannel()
    if group.rank == 0:
        for message in messages():
            channel.send(message)
    received = [channel.receive() for _ in messages()] if group.rank else []
    by_rank = [None, None]
    dist.all_gather_object(by_rank, received)
    return by_rank[1]


def test_messages_of_any_length_arrive_whole():
    assert spawn_ranks(2, broadcast) == messages()

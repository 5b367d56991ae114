import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from lingbot.parallel import process_group
from lingbot.parallel.process_group import connect_rendezvous, create_rendezvous, spawn_ranks


def fail_on_the_last_rank(group):
    if group.rank == group.num_ranks - 1:
        raise ZeroDivisionError("raised by the last rank")
    dist.barrier()


def test_an_error_in_one_process_ends_them_all():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="raised by the last"):
        spawn_ranks(2, fail_on_the_last_rank)


def test_the_first_error_is_raised_where_all_ranks_have_ended(monkeypatch):
    """On a busy machine the other rank, which has lost its peer, is gone before anybody looks."""

    def start_and_wait(*args, **options):
        context = start_processes(*args, **options, join=False)
        for process in context.processes:
            process.join()
        while not context.join():
            pass

    monkeypatch.setattr(process_group, "start_processes", start_and_wait)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="raised by the last"):
        spawn_ranks(2, fail_on_the_last_rank)


def test_ranks_share_the_rendezvous_that_one_of_them_created():
    created = create_rendezvous("127.0.0.1")
    connected = connect_rendezvous("127.0.0.1", created.port)
    created.set("rank 0", "here")
    assert connected.get("rank 0") == b"here"

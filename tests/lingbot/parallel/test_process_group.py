import pytest
import torch
import torch.distributed as dist

from lingbot.parallel.process_group import connect_rendezvous, create_rendezvous, spawn_ranks


def fail_on_the_last_rank(group):
    if group.rank == group.num_ranks - 1:
        raise ZeroDivisionError("raised by the last rank")
    dist.barrier()


def test_an_error_in_one_process_ends_them_all():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="raised by the last"):
        spawn_ranks(2, fail_on_the_last_rank)


def test_ranks_share_the_rendezvous_that_one_of_them_created():
    created = create_rendezvous("127.0.0.1")
    connected = connect_rendezvous("127.0.0.1", created.port)
    created.set("rank 0", "here")
    assert connected.get("rank 0") == b"here"

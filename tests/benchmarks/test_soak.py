"""A soak of a minute on a tiny world, and each check on figures made up for it."""

import asyncio
import json
import re
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks import rude_clients
from benchmarks import soak as soaking
from benchmarks.local_server import local_server, one_group
from benchmarks.rude_clients import ARGS
from benchmarks.server_sample import (
    OTHERS,
    ProcessFigures,
    Sample,
    lease_ends,
    unended_sessions,
)
from benchmarks.soak import Ground, check, print_soak, soak
from benchmarks.tiny_world import write_tiny_world

SLACK = 3  # there are about six clients of each kind
CHUNK_BYTES = 150_154  # of the object with the frames and latents of a chunk of the tiny world

LOG = """\
(WorldRank pid=7) INFO session a1 opened, 1 in all
(WorldRank pid=7) INFO session b2 opened, 2 in all
(ServeReplica:lingbot:Transport pid=8) INFO session a1 closed, 1000 done: 3 chunks
(WorldRank pid=7) INFO session a1 closed: its lease ended
"""


def ground(*, groups=1, unended=(), rss_mib=100.0, count=1, **figures):
    of_process = {name: figures.pop(name, 10) for name in ("descriptors", "threads")}
    rank = ProcessFigures(count=count, rss_mib=rss_mib, uss_mib=90.0, **of_process)
    names = ("object_store_bytes", "sessions", "connections", "tracebacks")
    rest = dict.fromkeys(names, 0) | figures
    sample = Sample(minute=1.0, processes={"WorldRank": rank}, **rest)
    return Ground(sample=sample, groups=groups, unended=list(unended))


def failed(late, ends=("closed",)):
    return {name for name, reason in check(ground(), late, Counter(ends)).items() if reason}


def test_a_server_that_looks_as_before_passes():
    assert not failed(ground(rss_mib=104.9))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sessions": 1}, "sessions"),
        ({"connections": 1}, "connections"),
        ({"unended": ["b2"]}, "sessions without an end"),
        ({"groups": 2}, "placement groups"),
        ({"object_store_bytes": 1}, "object store bytes"),
        ({"tracebacks": 1}, "tracebacks"),
        ({"descriptors": 11}, "descriptors of WorldRank"),
        ({"threads": 11}, "threads of WorldRank"),
        ({"rss_mib": 105.1}, "RSS of WorldRank"),
        ({"count": 2}, "processes of WorldRank"),
    ],
)
def test_each_leak_fails_its_check(change, name):
    assert failed(ground(**change)) == {name}


def test_an_end_without_a_reason_fails_and_so_does_a_soak_without_ends():
    assert failed(ground(), [""]) == {"ends without a reason"}
    assert failed(ground(), []) == {"sessions that ended"}


def test_ends_are_read_from_the_ranks_lines_alone():
    assert lease_ends(LOG) == {"its lease ended": 1}
    assert unended_sessions(LOG) == {"b2"}
    assert lease_ends("(WorldRank pid=7) INFO session c3 closed: \n") == {"": 1}


def test_a_sample_is_taken_once_the_last_worlds_have_ended(tmp_path, monkeypatch):
    log = tmp_path / "log"
    log.write_text(LOG)

    def end_the_last_one(seconds):
        log.write_text(LOG + "(WorldRank pid=7) INFO session b2 closed: not resumed\n")

    def take_sample(server, *, started_s):
        return ground(sessions=len(unended_sessions(server.log.read_text()))).sample

    monkeypatch.setattr(time, "sleep", end_the_last_one)
    monkeypatch.setattr(soaking, "take_sample", take_sample)
    monkeypatch.setattr(soaking, "placement_groups", lambda server: ["CREATED", "REMOVED"])
    looked = soaking.look_around(SimpleNamespace(log=log), started_s=0.0)
    assert looked == ground()


@pytest.fixture
def server(tmp_path):
    with local_server(write_tiny_world(tmp_path) | ARGS, change=one_group) as running:
        yield running


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_soak_leaks_no_session_and_names_each_end(server, monkeypatch, capsys):
    """Caches still fill up in the first minutes, so that no process's memory is held to 5 %.

    Pools may start a thread late, and a cycle of references may keep an object until Python
    collects it. What each client of one kind leaves behind is more than `SLACK`.
    """
    monkeypatch.setattr(rude_clients, "FREEZE_S", 5.0)
    report, (early, late) = asyncio.run(soak(server, minutes=1.2, every_s=0.5))
    ends = lease_ends(server.log.read_text())
    print_soak(report, early, late, ends)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(printed["lease_ends"].values()) > 5
    young = re.compile("RSS|threads|descriptors|object store")
    assert not {name: why for name, why in printed["failed"].items() if not young.match(name)}
    stored = [ground.sample.object_store_bytes for ground in (early, late)]
    assert stored[1] <= stored[0] + SLACK * CHUNK_BYTES
    for role in early.sample.processes.keys() - {OTHERS}:
        was, is_now = early.sample.processes[role], late.sample.processes[role]
        assert is_now.threads <= was.threads + SLACK, role
        assert is_now.descriptors <= was.descriptors + SLACK, role

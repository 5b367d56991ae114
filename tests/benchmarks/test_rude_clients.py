"""Rude clients for some seconds; `python -m benchmarks.rude_clients` runs them for an hour."""

import asyncio
import json
import random

import pytest

from benchmarks import rude_clients
from benchmarks.rude_clients import KINDS, Report, be_rude, observe, print_report, settled_sample
from benchmarks.server_sample import count_tracebacks

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("server")]

REFUSED = {"send_garbage", "send_too_much", "send_text", "flood_with_events"}


def test_rude_clients_leave_nothing_and_a_walker_walks_on(server, capsys):
    report = asyncio.run(observe(server, minutes=0.5, every_s=1.0))
    first, *_, last = report.samples
    assert len(report.walks) == 1 and report.gaps_s()
    assert report.clients and not any(ends["not connected"] for ends in report.clients.values())
    assert first.processes["raylet"].uss_mib > 1
    assert (last.sessions, last.connections) == (0, 0)
    assert last.tracebacks == first.tracebacks
    print_report(report)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["benchmark"] == "rude_clients"
    assert len(printed["samples"]) == len(report.samples)


def test_each_kind_of_client_does_as_its_name(server, monkeypatch):
    monkeypatch.setattr(rude_clients, "FREEZE_S", 3.0)
    report, chance, before = Report(), random.Random(0), count_tracebacks(server.log)

    async def scenario():
        await asyncio.gather(*(be_rude(kind, server, chance, report) for kind in KINDS))
        return await settled_sample(server, started_s=0.0)

    last = asyncio.run(scenario())
    for kind in KINDS:
        ending = "closed by the server" if kind.__name__ in REFUSED else "left"
        assert report.clients[kind.__name__][ending] == 1, kind.__name__
    assert (last.sessions, last.connections) == (0, 0)
    assert count_tracebacks(server.log) == before

"""Also covers fleet_simulation.py and fleet_model.py."""

import json
import math
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest

from benchmarks import fleet, fleet_model, fleet_simulation
from benchmarks.fleet_model import Hardware, Scenario
from benchmarks.fleet_simulation import NOTICE_S, Fleet
from deployments.sessions import admission, line, wait_clock
from deployments.sessions.admission import GroupLimits

FAST = Hardware(chunk_s=0.1, session_bytes=10**9, bytes_each=1)
ONE_EACH = Hardware(chunk_s=0.6, session_bytes=10, bytes_each=1)


def run(**options):
    simulated = Fleet(Scenario(**{"hardware": ONE_EACH, "users": 200, "concurrent": 10} | options))
    simulated.run()
    return simulated


def outcomes(simulated):
    return Counter(user.outcome for user in simulated.users)


def erlang_b(num_servers, load):
    """The probability that all servers are busy, when nobody waits."""
    blocked = 1.0
    for number in range(1, num_servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


# ---- the policy is the server's


def test_the_policy_is_the_shipped_one():
    assert fleet_model.Admission is admission.Admission
    assert fleet_model.Line is line.Line
    assert fleet_simulation.WaitClock is wait_clock.WaitClock
    assert fleet_model.GroupLimits is admission.GroupLimits


def test_a_changed_admission_changes_the_fleet(monkeypatch):
    monkeypatch.setattr(admission.Admission, "refusal", lambda *args, **kwargs: "speed")
    assert outcomes(run(users=20)).keys() <= {"gave up: queued", "gave up: starting", "line full"}


# ---- queueing theory


@pytest.fixture(scope="module")
def theory():
    """One group of five places, four users at once on average."""
    limits = GroupLimits(pace="shared", max_sessions=5, max_waiting=10**6)
    return Scenario(
        hardware=FAST,
        users=8000,
        concurrent=4,
        session_s=100,
        max_groups=1,
        limits=limits,
        queue_timeout_s=1e9,
    )


def test_waits_are_those_of_erlangs_formula(theory):
    simulated = Fleet(theory)
    simulated.run()
    waits = simulated.sums.waits_s
    blocked = erlang_b(5, 4)
    waiting = blocked / (1 - 4 / 5 * (1 - blocked))
    assert fmean(wait > 0 for wait in waits) == pytest.approx(waiting, rel=0.15)
    assert fmean(waits) == pytest.approx(waiting * 100 / (5 - 4), rel=0.15)


def test_refusals_without_a_line_are_those_of_erlangs_formula(theory):
    simulated = Fleet(replace(theory, limits=GroupLimits(max_sessions=5, max_waiting=0)))
    simulated.run()
    refused = outcomes(simulated)["line full"] / theory.users
    assert refused == pytest.approx(erlang_b(5, 4), rel=0.1)
    # Little's law: the sessions at once are the load that was let in
    mean = simulated.sums.session_s / simulated.window_s
    assert mean == pytest.approx(4 * (1 - refused), rel=0.1)


# ---- every user ends with an outcome


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_groups": 0, "target_ongoing": 2.0},
        {"max_groups": 2, "limits": GroupLimits(max_waiting=1)},
        {"idle_after_s": 3.0, "target_ongoing": 2.0, "limits": GroupLimits(suspend_after_s=2.0)},
        {"group_life_s": 600.0, "node_life_s": 1200.0, "groups_per_node": 3},
        {"drain_s": 60.0, "downscale_delay_s": 30.0, "swing": 1.0},
        {"start_s": 2000.0, "min_groups": 0},
    ],
)
def test_every_user_ends_with_a_named_outcome(options):
    simulated = run(**options)
    assert sum(outcomes(simulated).values()) == 200
    assert None not in outcomes(simulated)
    sums = simulated.sums
    ended = outcomes(simulated)
    assert len(sums.waits_s) == ended["finished"] + ended["world lost"]
    assert 0 < sums.busy_s <= sums.group_s or not sums.waits_s


def test_the_same_seed_gives_the_same_figures():
    first, again, other = (run(idle_after_s=3.0, seed=seed).sums for seed in (1, 1, 2))
    assert first == again
    assert first != other


# ---- what happens to groups


def test_a_group_that_starts_keeps_its_clients_from_giving_up():
    simulated = run(users=1, min_groups=0, start_s=300.0, queue_timeout_s=60.0)
    assert outcomes(simulated) == {"finished": 1}
    assert 300 <= simulated.sums.waits_s[0] < 330


def test_a_client_gives_up_when_no_group_comes_up():
    simulated = run(users=1, min_groups=0, start_s=2000.0, warm_up_timeout_s=900.0)
    assert outcomes(simulated) == {"gave up: starting": 1}


def test_clients_give_up_when_every_group_is_taken():
    simulated = run(users=100, max_groups=1, queue_timeout_s=30.0)
    assert outcomes(simulated)["gave up: queued"] > 50


def test_users_of_dead_groups_come_back():
    simulated = run(group_life_s=300.0, min_groups=15)
    sums = simulated.sums
    assert sums.deaths > 10
    assert sums.moved > 10
    # another group is up, and none of them refuses such a session for its speed
    assert sums.lost_place_s == pytest.approx([NOTICE_S] * sums.moved)
    assert sums.late_chunks > 0
    assert outcomes(simulated) == {"finished": 200}


def test_a_session_that_finds_no_other_group_is_lost():
    simulated = run(users=1, session_s=1e6, start_s=2000.0, group_life_s=60.0)
    assert outcomes(simulated) == {"world lost": 1}


def test_a_session_whose_group_died_goes_in_front_of_the_line():
    limits = GroupLimits(max_sessions=1)
    options = {"users": 12, "session_s": 1e4, "limits": limits, "queue_timeout_s": 1e9}
    simulated = Fleet(Scenario(hardware=ONE_EACH, min_groups=2, max_groups=2, **options))
    simulated.run(until=simulated.window_s + 1)
    dead, other = simulated.groups
    (user,) = dead.sessions.values()
    simulated.kill_node(dead.node)
    simulated.run(until=simulated.now + NOTICE_S + 1)
    assert other.line.first == user.name and len(other.line) > 3


def drain_one(**options):
    """Two groups of one user each, before and after the newer one drains."""
    scenario = Scenario(hardware=ONE_EACH, users=2, session_s=1e4, min_groups=2, start_s=1e9)
    simulated = Fleet(replace(scenario, **options))
    simulated.run(until=simulated.window_s + 1)
    kept, drained = simulated.groups
    ends = {user.name: user.until for user in simulated.users}
    simulated.drain(drained)
    return simulated, kept, drained, ends


def test_the_sessions_of_a_draining_group_move_at_once():
    simulated, kept, drained, ends = drain_one()
    assert drained.state == "gone" and len(kept.sessions) == 2
    assert {user.name: user.until for user in simulated.users} == ends
    assert simulated.sums.moved == 1 and simulated.sums.lost_place_s == []


def test_a_session_of_a_draining_group_goes_on_there_until_another_has_memory():
    hardware = replace(ONE_EACH, session_bytes=1)
    simulated, kept, drained, _ = drain_one(hardware=hardware, drain_s=1e9, seed=2)
    assert drained.state == "draining"
    (moving,), (other,) = drained.sessions.values(), kept.sessions.values()
    assert other.until < moving.until
    simulated.run(until=other.until)
    assert drained.sessions == {moving.name: moving}
    simulated.run(until=other.until + 1)
    assert drained.state == "gone" and kept.sessions == {moving.name: moving}


def test_a_node_takes_its_groups_along_and_others_are_started():
    simulated = Fleet(Scenario(hardware=ONE_EACH, users=200, min_groups=6, groups_per_node=3))
    simulated.run(until=10.0)
    before = list(simulated.groups)
    simulated.kill_node(before[0].node)
    assert simulated.sums.deaths == 3
    assert [group.state for group in before[:3]] == ["gone"] * 3
    assert [group.state for group in simulated.groups] == ["up"] * 3 + ["starting"] * 3
    simulated.run()
    assert sum(outcomes(simulated).values()) == 200


def test_without_pauses_nobody_is_late():
    assert run().sums.late_chunks == 0


def test_pauses_let_more_users_share_a_group_and_make_some_late():
    idle = run(idle_after_s=3.0, max_groups=6, concurrent=10, users=400).sums
    busy = run(max_groups=6, concurrent=10, users=400).sums
    assert idle.session_s > busy.session_s
    assert idle.late_chunks > 0


def test_reserved_speed_of_paused_sessions_keeps_the_others_in_time():
    limits = GroupLimits(paused_share=1.0)
    assert run(idle_after_s=3.0, max_groups=6, limits=limits).sums.late_chunks == 0


def test_suspended_sessions_make_room_for_more_users():
    small = replace(FAST, session_bytes=2)
    limits = GroupLimits(suspend_after_s=1.0, suspended_bytes=4, max_waiting=0)
    options = {"hardware": small, "max_groups": 1, "idle_after_s": 1.0, "rest_s": 30.0}
    suspending = run(limits=limits, **options).sums
    keeping = run(limits=GroupLimits(max_waiting=0), **options).sums
    assert suspending.suspended > 0
    assert suspending.resume_waits_s
    assert suspending.session_s > 1.2 * keeping.session_s


# ---- the command


def test_the_command_prints_a_table_and_one_json_line(capsys):
    fleet.main(["--users", "50", "--concurrent", "5", "--target-ongoing", "1", "2"])
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert list(report["rows"]) == ["target_ongoing 1", "target_ongoing 2"]
    assert any("gpu_h_per_user_h" in line for line in table)
    row = report["rows"]["target_ongoing 2"]
    assert sum(row["outcomes"].values()) == 50
    assert row["gpu_h_per_user_h"] == pytest.approx(4 * row["group_h_per_user_h"], abs=0.01)


def test_a_fleet_without_groups_has_figures():
    row = fleet.measure(Scenario(hardware=ONE_EACH, users=5, min_groups=0, start_s=10_000.0))
    assert row["outcomes"] == {"gave up: starting": 5}
    assert row["refused_percent"] == 100


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--session-s", "0"], "session_s: 0, expected a number above 0"),
        (["--swing", "2"], "swing: 2, expected 0 to 1"),
        (["--min-groups", "7", "--max-groups", "2"], "min_groups: 7, expected 0 to 2"),
        (["--max-sessions", "0"], "max_sessions"),
        (["--pace", "fast"], "--pace"),
        (["--users", "many"], "--users"),
        (["--rest-s", "long"], "--rest-s"),
    ],
)
def test_a_wrong_option_is_named(arguments, reason, capsys):
    with pytest.raises(SystemExit) as error:
        fleet.main(arguments)
    assert reason in f"{error.value}{capsys.readouterr().err}"


def test_a_missing_idle_time_never_pauses():
    assert math.isinf(fleet.build("pocket", {}).idle_after_s)

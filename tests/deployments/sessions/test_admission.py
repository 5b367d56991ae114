import pytest
from msgspec.structs import replace

from deployments.sessions.admission import FULL, Admission, Demand, GroupLimits

SMALL, LARGE = Demand(width=208, height=128), Demand(width=832, height=480)
CLIP = replace(SMALL, realtime=False)
MEDIA_S = 0.75


def create_admission(*, session_bytes=100, chunk_s=0.3, **limits):
    """Two sessions of 0.3 s a chunk keep up with 0.75 s of media, three do not."""
    admission = Admission(GroupLimits(**limits), media_s=MEDIA_S, session_bytes=session_bytes)
    if chunk_s is not None:
        admission.measure(SMALL.size, chunk_s)
    return admission


def admit(admission, *names, num_bytes=10, demand=SMALL):
    for name in names:
        assert admission.refusal(demand, num_bytes) is None
        admission.admit(name, demand, num_bytes)


def test_as_many_sessions_are_admitted_as_the_group_keeps_up_with():
    admission = create_admission()
    admit(admission, "a", "b")
    assert admission.load == pytest.approx(0.8)
    assert admission.refusal(SMALL, 10) == "speed"
    admission.leave("a")
    assert admission.refusal(SMALL, 10) is None


def test_the_last_part_of_real_time_stays_free():
    admission = create_admission(chunk_s=MEDIA_S * (FULL + 0.01) / 2)
    admit(admission, "a")
    assert admission.refusal(SMALL, 10) == "speed"


def test_one_session_alone_is_admitted_at_any_speed():
    admission = create_admission(chunk_s=2.3)
    admit(admission, "a")
    assert admission.refusal(SMALL, 10) == "speed"


def test_a_shared_pace_admits_more_than_the_group_keeps_up_with():
    admission = create_admission(pace="shared", chunk_s=2.3)
    admit(admission, *"abcdefghij")
    assert admission.refusal(SMALL, 10) == "memory"


def test_before_the_first_chunk_bytes_alone_decide():
    admission = create_admission(chunk_s=None)
    assert admission.shares() == {}
    admit(admission, *"abcdefghij")
    assert admission.refusal(SMALL, 1) == "memory"


def test_each_size_has_its_own_speed():
    admission = create_admission()
    admission.measure(LARGE.size, 0.5)
    admission.admit("large", LARGE, 10)
    assert admission.load == pytest.approx(0.5 / MEDIA_S)
    assert admission.refusal(SMALL, 10) == "speed"
    admission.leave("large")
    admit(admission, "small")
    assert admission.refusal(LARGE, 10) == "speed"


def test_the_speed_is_the_median_of_the_latest_chunks():
    admission = create_admission(chunk_s=0.3)
    admission.measure(SMALL.size, 30.0)  # one that was held up
    admission.measure(SMALL.size, 0.2)
    assert admission.shares() == {SMALL.size: pytest.approx(0.3 / MEDIA_S)}
    for _ in range(16):
        admission.measure(SMALL.size, 0.5)
    assert admission.shares() == {SMALL.size: pytest.approx(0.5 / MEDIA_S)}


@pytest.mark.parametrize(
    "num_steps, load",
    [(None, 0.4), (4, 0.4), (8, 0.4 * 9 / 5), (3, 0.4 * 4 / 5), (1, 0.2 / MEDIA_S)],
)
def test_a_sessions_share_of_the_speed_follows_its_passes_until_decoding_takes_longer(
    num_steps, load
):
    admission = create_admission(chunk_s=None)
    admission.measure(SMALL.size, 0.3, 0.2)
    admit(admission, "a", demand=replace(SMALL, num_steps=num_steps))
    assert admission.load == pytest.approx(load)
    assert admission.shares() == {SMALL.size: pytest.approx(0.4)}
    admission.measure(SMALL.size, 0.3, 3.0)
    admission.measure(SMALL.size, 0.3, 3.0)
    assert admission.load == pytest.approx(3.0 / MEDIA_S)


def test_a_session_of_many_steps_is_admitted_where_they_are_no_burden_to_others():
    """Two sessions of 4 steps, or one of 8, keep up with the media."""
    admission, long = create_admission(), replace(SMALL, num_steps=8)
    admit(admission, "a")
    assert admission.refusal(long, 10) == "speed"
    assert admission.refusal(replace(long, returning=True), 10) is None
    admission.leave("a")
    admit(admission, "long", demand=long)
    assert admission.refusal(SMALL, 10) == "speed"


def test_a_clip_takes_bytes_and_no_speed():
    admission = create_admission()
    admit(admission, "a", "b")
    admit(admission, "clip", demand=CLIP)
    assert admission.load == pytest.approx(0.8)
    assert admission.refusal(CLIP, 71) == "memory"


def test_a_session_alone_beside_clips_is_admitted_at_any_speed():
    admission = create_admission(chunk_s=2.3)
    admit(admission, "clip", demand=CLIP)
    admit(admission, "a")


def test_sessions_are_counted_in_every_state():
    admission = create_admission(max_sessions=2)
    admit(admission, "a", "b")
    admission.move("a", "paused", 0)
    admission.move("b", "suspended", 0)
    assert admission.refusal(SMALL, 10) == "sessions"
    admission.limits = GroupLimits(max_sessions=3)
    assert admission.refusal(SMALL, 10) is None


def test_without_a_memory_plan_bytes_are_not_counted():
    admission = create_admission(session_bytes=None, suspend_after_s=1)
    admit(admission, "a", num_bytes=10**15)
    admission.move("a", "paused", 0)
    assert admission.to_suspend(1) == ["a"]
    admission.move("a", "suspended", 1)
    assert admission.room_for("a") == []


def test_a_paused_session_keeps_its_bytes_and_frees_its_speed():
    admission = create_admission()
    admit(admission, "a", "b", num_bytes=30)
    admission.move("a", "paused", 0)
    assert admission.load == pytest.approx(0.4)
    assert admission.num_bytes == 60
    admit(admission, "c", num_bytes=40)
    assert admission.refusal(SMALL, 1) == "memory"


def test_a_share_of_a_paused_sessions_speed_may_stay_reserved():
    admission = create_admission(paused_share=0.5)
    admit(admission, "a", "b")
    admission.move("a", "paused", 0)
    assert admission.refusal(SMALL, 10) == "speed"  # 0.4 + 0.2 + 0.4
    admission.move("b", "paused", 0)
    assert admission.refusal(SMALL, 10) is None
    admission.move("b", "suspended", 0)
    admission.admit("c", SMALL, 10)
    assert admission.load == pytest.approx(0.4)
    assert admission.refusal(SMALL, 10) == "speed"


def test_a_session_that_resumes_is_never_refused_its_speed():
    admission = create_admission()
    admit(admission, "a", "b")
    admission.move("a", "paused", 0)
    admit(admission, "c")
    admission.move("a", "active", 1)
    assert admission.load == pytest.approx(1.2)
    assert admission.refusal(SMALL, 10) == "speed"


def test_a_suspended_session_frees_its_bytes():
    admission = create_admission()
    admit(admission, "a", num_bytes=100)
    admission.move("a", "suspended", 0)
    assert (admission.num_bytes, admission.suspended_bytes) == (0, 100)
    admit(admission, "b", num_bytes=100)


def test_sessions_are_suspended_after_their_time_the_longest_paused_first():
    admission = create_admission(suspend_after_s=60)
    admit(admission, "a", "b")
    admission.move("b", "paused", 0)
    admission.move("a", "paused", 10)
    assert admission.to_suspend(59) == []
    assert admission.to_suspend(60) == ["b"]
    assert admission.to_suspend(70) == ["b", "a"]
    admission.move("b", "active", 65)
    assert admission.to_suspend(70) == ["a"]


def test_pausing_again_does_not_restart_the_time():
    admission = create_admission(suspend_after_s=60)
    admit(admission, "a")
    admission.move("a", "paused", 0)
    admission.move("a", "paused", 50)
    assert admission.to_suspend(60) == ["a"]


def test_nobody_is_suspended_without_the_limit():
    admission = create_admission()
    admit(admission, "a")
    admission.move("a", "paused", 0)
    assert admission.to_suspend(10**9) == []


def test_host_memory_bounds_the_suspended_sessions():
    admission = create_admission(pace="shared", suspend_after_s=1, suspended_bytes=20)
    admit(admission, "a", "b", "c")
    for number, name in enumerate("abc"):
        admission.move(name, "paused", number)
    assert admission.to_suspend(100) == ["a", "b"]
    admission.move("a", "suspended", 100)
    assert admission.to_suspend(100) == ["b"]


def test_host_memory_is_bounded_by_the_gpus_unless_it_has_its_own_limit():
    admission = create_admission(suspend_after_s=1, session_bytes=25)
    admit(admission, "a", "b")
    for name in "ab":
        admission.move(name, "suspended", 0)
    admit(admission, "c")
    admission.move("c", "paused", 0)
    assert admission.to_suspend(100) == []


@pytest.fixture
def full():
    """`asleep` is suspended; `first` and `second` are paused, and take all bytes with `busy`."""
    admission = create_admission(pace="shared", suspend_after_s=60, suspended_bytes=1000)
    admit(admission, "asleep", num_bytes=40)
    admission.move("asleep", "suspended", 0)
    admit(admission, "second", num_bytes=30)
    admit(admission, "first", num_bytes=30)
    admit(admission, "busy", num_bytes=40)
    admission.move("first", "paused", 10)
    admission.move("second", "paused", 20)
    return admission


def test_a_session_that_resumes_takes_the_bytes_of_the_longest_paused(full):
    assert full.room_for("asleep") == ["first", "second"]
    full.leave("busy")
    assert full.room_for("asleep") == []


def test_no_more_sessions_are_suspended_than_a_resumption_needs(full):
    full.leave("asleep")
    full.admit("small", SMALL, 25)
    full.move("small", "suspended", 30)
    assert full.room_for("small") == ["first"]


def test_a_session_that_resumes_waits_while_active_ones_hold_its_bytes(full):
    full.move("first", "active", 30)
    assert full.room_for("asleep") is None
    full.leave("busy")
    assert full.room_for("asleep") == []


def test_a_session_that_resumes_waits_while_host_memory_has_no_room_for_the_others(full):
    full.limits = GroupLimits(suspend_after_s=60, suspended_bytes=69)
    assert full.room_for("asleep") is None  # 40 stay until 30 and 30 have arrived


def test_a_session_that_is_not_suspended_needs_no_room(full):
    assert full.room_for("first") == full.room_for("busy") == []
    with pytest.raises(KeyError):
        full.room_for("unknown")


def test_unknown_sessions_are_ignored():
    admission = create_admission()
    admission.move("unknown", "paused", 0)
    admission.leave("unknown")
    assert admission.state("unknown") is None
    assert len(admission) == 0


# ---- detached sessions


@pytest.mark.parametrize("paused_share", [0.0, 1.0])
def test_a_detached_session_keeps_its_bytes_and_none_of_its_speed(paused_share):
    admission = create_admission(session_bytes=30, paused_share=paused_share)
    admit(admission, "a", "b")
    admission.detach("a", now=1)
    assert admission.state("a") == "paused" and admission.num_bytes == 20
    assert admission.load == pytest.approx(0.4)
    assert admission.refusal(SMALL, 11) == "memory"
    admit(admission, "c")
    admission.attach("a")  # never refused
    assert admission.refusal(SMALL, 0) == "speed"


def test_a_detached_session_is_suspended_as_one_that_is_paused():
    admission = create_admission(suspend_after_s=5)
    admit(admission, "a", "paused")
    admission.move("paused", "paused", now=0)
    admission.detach("paused", now=2)  # it has been paused since 0
    admission.detach("a", now=1)
    assert admission.to_suspend(5) == ["paused"]
    assert admission.to_suspend(6) == ["paused", "a"]
    admission.move("a", "suspended", now=6)
    admission.detach("a", now=7)
    assert admission.state("a") == "suspended"


def test_to_detach_or_attach_an_unknown_session_is_no_error():
    admission = create_admission()
    admission.detach("a", now=1)
    admission.attach("a")
    assert len(admission) == 0

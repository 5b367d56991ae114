import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.wire.controls import (
    KEYS,
    MAX_TRANSITIONS,
    Controls,
    canonical,
    parse_actions,
)
from transport.wire.errors import BadMessage

states = st.lists(st.sets(st.sampled_from(KEYS)).map(canonical), min_size=1, max_size=30)


def test_no_key_is_an_action_too():
    taken = Controls().take_chunk(3)
    assert (taken.actions, taken.event_ids, taken.prompt) == (["", "", ""], [], None)


def test_a_script_is_played_frame_by_frame_and_then_no_key_is_held():
    controls = Controls()
    controls.play_script(["w", "w", "l", "", "w"], event_id=7)
    assert controls.take_chunk(3).actions == ["w", "w", "l"]
    assert controls.take_chunk(3).actions == ["", "w", ""]
    assert controls.take_chunk(3).actions == ["", "", ""]


def test_a_script_takes_effect_once():
    controls = Controls()
    controls.play_script(["w"] * 6, event_id=7)
    assert [controls.take_chunk(3).event_ids for _ in range(3)] == [[7], [], []]


def test_an_empty_script_releases_every_key():
    controls = Controls()
    controls.hold(["w"])
    controls.play_script([], event_id=2)
    taken = controls.take_chunk(3)
    assert (taken.actions, taken.event_ids) == (["", "", ""], [2])


def test_a_new_script_replaces_the_rest_of_the_old_one():
    controls = Controls()
    controls.play_script(["w"] * 9)
    controls.take_chunk(3)
    controls.play_script(["s"])
    assert controls.take_chunk(3).actions == ["s", "", ""]


def test_a_script_ends_the_held_state_for_good():
    controls = Controls()
    controls.hold(["w"])
    controls.play_script(["a"])
    assert controls.take_chunk(3).actions == ["a", "", ""]
    assert controls.take_chunk(3).actions == ["", "", ""]


def test_a_held_state_ends_a_script():
    controls = Controls()
    controls.play_script(["w"] * 9)
    controls.hold(["d"], event_id=1)
    assert controls.take_chunk(3).actions == ["d", "d", "d"]


def test_a_held_key_stays_held():
    controls = Controls()
    controls.hold(["w"], event_id=1)
    assert [controls.take_chunk(3).actions for _ in range(2)] == [["w"] * 3] * 2
    controls.hold([""], event_id=2)
    assert controls.take_chunk(3).actions == [""] * 3


def test_a_tap_shorter_than_a_latent_frame_shows():
    controls = Controls()
    controls.hold(["w"], event_id=1)
    controls.hold([""], event_id=2)
    taken = controls.take_chunk(3)
    assert (taken.actions, taken.event_ids) == (["w", "", ""], [1, 2])


def test_more_transitions_than_frames_are_merged_in_order():
    controls = Controls()
    controls.hold(["w", "", "a", "", "l"])
    assert controls.take_chunk(3).actions == ["w", "a", "l"]


def test_a_prompt_is_taken_once_and_the_newest_wins():
    controls = Controls()
    controls.set_prompt("rain", event_id=1)
    controls.set_prompt("snow", event_id=2)
    taken = controls.take_chunk(3)
    assert (taken.prompt, taken.event_ids) == ("snow", [2])
    assert controls.take_chunk(3).prompt is None


def test_event_ids_are_in_the_order_of_their_arrival():
    controls = Controls()
    controls.hold(["w"], event_id=1)
    controls.set_prompt("rain", event_id=2)
    controls.hold(["a"], event_id=3)
    assert controls.take_chunk(3).event_ids == [1, 2, 3]
    controls.set_prompt("snow", event_id=4)
    controls.play_script(["w"], event_id=5)
    assert controls.take_chunk(3).event_ids == [4, 5]


def ids(controls, num):
    return [controls.take_chunk(3).event_id for _ in range(num)]


@pytest.mark.parametrize(
    "num_latent_frames, expected",
    [(0, [7, None]), (2, [7, None]), (3, [7, None]), (4, [7, 7, None]), (6, [7, 7, None, None])],
)
def test_a_script_is_in_effect_until_it_has_run_out(num_latent_frames, expected):
    controls = Controls()
    controls.play_script(["w"] * num_latent_frames, event_id=7)
    assert ids(controls, len(expected)) == expected


def test_held_keys_and_a_prompt_stay_in_effect():
    controls = Controls()
    controls.hold(["w"], event_id=1)
    assert ids(controls, 3) == [1, 1, 1]
    controls.set_prompt("rain", event_id=2)
    assert ids(controls, 3) == [2, 2, 2]
    controls.play_script(["w"] * 4, event_id=3)
    assert ids(controls, 3) == [3, 3, None]
    controls.play_script(["w"], event_id=4)
    controls.set_prompt("snow", event_id=5)
    assert ids(controls, 3) == [5, 5, 5]


@pytest.mark.parametrize(
    "replace",
    [
        lambda controls: controls.hold(["s"]),
        lambda controls: controls.play_script(["s"] * 9),
    ],
)
def test_an_event_that_is_replaced_by_one_without_an_id_is_in_effect_no_more(replace):
    for begin in (Controls.hold, Controls.play_script):
        controls = Controls()
        begin(controls, ["w"] * 9, event_id=1)
        assert ids(controls, 2) == [1, 1]
        replace(controls)
        assert ids(controls, 2) == [None, None]
        controls.set_prompt("rain", event_id=2)
        assert ids(controls, 2) == [2, 2]
        replace(controls)
        assert ids(controls, 1) == [2]


def test_a_composite_event_is_in_effect_as_long_as_its_script():
    for first, second in (("script", "prompt"), ("prompt", "script")):
        controls = Controls()
        for part in (first, second):
            if part == "script":
                controls.play_script(["w"] * 3, event_id=7)
            else:
                controls.set_prompt("rain", event_id=7)
        assert ids(controls, 2) == [7, None]


def test_an_event_that_never_takes_effect_has_no_id():
    controls = Controls()
    controls.hold(["w"], event_id=1)
    controls.play_script(["w"], event_id=2)
    controls.set_prompt("rain", event_id=3)
    controls.play_script(["w"], event_id=4)
    assert controls.take_chunk(3).event_ids == [3, 4]
    controls.play_script(["w"], event_id=5)
    controls.hold(["w"], event_id=6)
    assert controls.take_chunk(3).event_ids == [6]
    assert controls.take_chunk(3).event_ids == []


def test_an_event_with_keys_and_a_prompt_takes_effect_once():
    controls = Controls()
    controls.hold(["w"], event_id=5)
    controls.set_prompt("rain", event_id=5)
    assert controls.take_chunk(3).event_ids == [5]


@given(states, st.integers(1, 4))
def test_no_tap_is_lost_and_the_final_state_is_exact(history, num):
    controls = Controls()
    for keys in history:
        controls.hold([keys])
    actions = controls.take_chunk(num).actions
    assert len(actions) == num
    assert set("".join(actions)) == set("".join(history))
    assert all(action == canonical(action) for action in actions)
    if num > 1 or len(history) == 1:
        assert actions[-1] == history[-1]
    assert controls.take_chunk(num).actions == [history[-1]] * num


@given(states, st.integers(2, 4))
def test_up_to_a_chunk_of_transitions_get_a_frame_each(history, num):
    history = history[:num]
    controls = Controls()
    controls.hold(history)
    rest = [history[-1]] * (num - len(history))
    assert controls.take_chunk(num).actions == history + rest


def test_pending_transitions_are_bounded_and_still_lose_no_tap():
    controls = Controls()
    controls.hold(["i"], event_id=0)
    for event_id in range(1, 5000):
        controls.hold(["w" if event_id % 2 else ""], event_id=event_id)
    assert len(controls._transitions) == MAX_TRANSITIONS
    taken = controls.take_chunk(3)
    assert "i" in taken.actions[0]
    assert taken.event_ids[-1] == 4999
    assert len(taken.event_ids) == MAX_TRANSITIONS


def test_the_grammar_of_actions():
    assert parse_actions("w-2, lw-1,none-2") == ["w", "w", "wl", "", ""]
    assert parse_actions("W-1,Lw-1,None-1") == ["w", "wl", ""]


@pytest.mark.parametrize(
    "text, segment",
    [
        ("", "''"),
        ("w", "'w'"),
        ("w-2,,l-1", "''"),
        ("w-2,q-1", "'q-1'"),
        ("w--2", "'w--2'"),
        ("w-x", "'w-x'"),
        ("w-²", "'w-²'"),
        ("-3", "'-3'"),
        ("w-0", "'w-0'"),
        ("w-9,l-2", "'l-2'"),
        ("w-99999999999999999999", "'w-99999999999999999999'"),
    ],
)
def test_a_wrong_segment_of_actions_is_named(text, segment):
    with pytest.raises(BadMessage) as caught:
        parse_actions(text, max_latent_frames=10)
    assert str(caught.value).startswith(segment)
    assert caught.value.field.startswith("actions[")


def test_a_chunk_has_new_keys_if_an_event_brought_some():
    controls = Controls()
    controls.set_prompt("snow", event_id=1)
    assert not controls.take_chunk(3).has_new_keys
    controls.hold(["w"])
    assert controls.take_chunk(3).has_new_keys
    assert not controls.take_chunk(3).has_new_keys, "held keys are not new"
    controls.play_script(["w"] * 6)
    assert [controls.take_chunk(3).has_new_keys for _ in range(2)] == [True, False]


def test_a_chunk_knows_when_its_oldest_new_keys_arrived():
    controls = Controls()
    controls.note_arrival(1.0)  # of an event without keys
    controls.hold(["w"])
    controls.note_arrival(2.0)
    controls.hold(["wd"])
    controls.note_arrival(3.0)
    assert controls.take_chunk(3).event_s == 2.0
    assert controls.take_chunk(3).event_s is None  # held keys are not new
    controls.set_prompt("a lake")
    controls.note_arrival(4.0)
    assert controls.take_chunk(3).event_s is None

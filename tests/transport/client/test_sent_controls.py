import pytest

from transport.client.sent_controls import SentControls, hold_payload

W, NONE = ["w"], []


def controls_of(script=()):
    return SentControls([list(keys) for keys in script])


def test_the_script_of_an_init_loses_what_chunks_have_followed():
    controls = controls_of([W] * 7)
    controls.note_chunk([], num_latent_frames=3)
    assert controls.rest(9) == [("camera_actions", [W] * 4, 9)]


def test_a_script_is_whole_until_a_chunk_follows_its_event():
    controls = controls_of()
    controls.note_script([W, W, NONE, W], event_id=2)
    controls.note_chunk([1], num_latent_frames=3)  # generated before the event arrived
    assert controls.rest(9) == [("camera_actions", [W, W, NONE, W], 2)]
    controls.note_chunk([], num_latent_frames=3)  # again so on the next socket
    controls.note_chunk([2], num_latent_frames=3)
    assert controls.rest(9) == [("camera_actions", [W], 2)]
    controls.note_chunk([2], num_latent_frames=3)
    assert controls.rest(9) == []


@pytest.mark.parametrize(
    "states, seen, rest",
    [
        (["w"], False, ["w"]),
        (["w"], True, ["w"]),  # it is held on
        (["w", ""], False, ["w", ""]),  # a tap that no frame shows yet
        (["w", ""], True, None),
        (["w", "wl"], True, ["wl"]),
    ],
)
def test_held_keys_are_held_again(states, seen, rest):
    controls = controls_of([W] * 3)
    controls.note_keys(states, event_id=4)
    controls.note_chunk([4] if seen else [], num_latent_frames=3)
    assert controls.rest(9) == ([] if rest is None else [("camera_actions", hold_payload(rest), 4)])


def test_a_prompt_is_sent_again_until_a_chunk_follows_it():
    controls = controls_of()
    controls.note_prompt("rain", event_id=5)
    assert controls.rest(9) == [("prompt", "rain", 5)]
    controls.note_chunk([5], num_latent_frames=3)
    assert controls.rest(9) == []


def test_a_world_that_is_turned_back_ends_scripts_and_prompts_before_it_and_no_keys():
    controls = controls_of([W] * 6)
    controls.note_prompt("rain", event_id=1)
    controls.note_turn(event_id=2)
    assert controls.rest(9) == []
    controls.note_script([W], event_id=3)
    controls.note_prompt("snow", event_id=4)
    controls.note_turn(event_id=2)
    assert [kind for kind, _, _ in controls.rest(9)] == ["camera_actions", "prompt"]
    controls.note_keys(["w"], event_id=5)
    controls.note_turn(event_id=6)
    assert controls.rest(9) == [("camera_actions", hold_payload(["w"]), 5)]


def test_a_script_goes_on_from_the_init_of_another_socket():
    controls = controls_of()
    controls.note_script([W] * 6, event_id=2)
    assert controls.script_for_init() == [W] * 6
    controls.begin_init()
    assert controls.rest(9, with_script=False) == []
    controls.note_chunk([], num_latent_frames=3)  # of no event
    assert controls.script_for_init() == [W] * 3
    assert controls.rest(9) == [("camera_actions", [W] * 3, 9)]  # after a rewind, an event


def test_keys_that_come_after_that_init_are_sent_as_an_event():
    controls = controls_of([W] * 6)
    controls.script_for_init()
    controls.note_script([NONE], event_id=3)
    controls.begin_init()
    assert controls.rest(9, with_script=False) == [("camera_actions", [NONE], 3)]

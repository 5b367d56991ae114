"""Scenes, their prompts, their light and their solids."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from lingbot.text.pocket import WORDS
from pocket.renderer.conditions import (
    GROUND_WORDS,
    GROUNDS,
    TIME_WORDS,
    TIMES,
    WEATHER_WORDS,
    WEATHERS,
    Conditions,
    change_conditions,
    draw_conditions,
    light_of,
)
from pocket.renderer.prompt import PLACE_WORDS, write_prompt
from pocket.renderer.scene import PLACES, make_scene
from pocket.renderer.solids import box, gem, pyramid


def test_a_seed_is_a_scene():
    assert make_scene(7) == make_scene(7)
    assert make_scene(7) != make_scene(8)


def test_scenes_come_in_all_kinds():
    scenes = [make_scene(seed) for seed in range(120)]
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {scene.conditions.time for scene in scenes} == set(TIMES)
    assert {scene.conditions.weather for scene in scenes} == set(WEATHERS)
    assert {scene.conditions.ground for scene in scenes} == set(GROUNDS)


def test_no_object_stands_where_walks_begin():
    for seed in range(40):
        for spot in make_scene(seed).obstacles:
            assert np.hypot(spot.x, spot.z) >= spot.radius + 1


def test_the_default_prompt_names_all_conditions():
    scene = make_scene(3)
    prompt = write_prompt(scene.under(Conditions(time="dusk", weather="fog", ground="snow")))
    assert prompt.endswith("snow, at dusk, fog")


def test_the_text_encoder_knows_the_words_of_all_prompts():
    kinds = (PLACE_WORDS, GROUND_WORDS, TIME_WORDS, WEATHER_WORDS)
    phrases = [phrase for words in kinds for choices in words.values() for phrase in choices]
    assert {word for phrase in phrases for word in phrase.split()} == WORDS


def test_changed_conditions_are_always_in_the_prompt():
    scene = make_scene(3).under(Conditions(time="noon", weather="clear", ground="grass"))
    other = scene.under(replace(scene.conditions, time="night", ground="sand"))
    for seed in range(50):
        prompt = write_prompt(other, Random(seed), changed_from=scene.conditions)
        assert any(phrase in prompt for phrase in TIME_WORDS["night"])
        assert any(phrase in prompt for phrase in GROUND_WORDS["sand"])


def test_a_change_changes_something():
    random = Random(0)
    for _ in range(100):
        conditions = draw_conditions(random)
        assert change_conditions(conditions, random) != conditions


@pytest.mark.parametrize("time", TIMES)
def test_overcast_dims_the_sun_and_fog_hides_more(time):
    clear, overcast, fog = (
        light_of(Conditions(time=time, weather=weather, ground="grass")) for weather in WEATHERS
    )
    assert max(overcast.direct) < 0.5 * max(clear.direct)
    assert fog.fog < overcast.fog < clear.fog


@pytest.mark.parametrize(
    "solid",
    [
        box(1, 2, half=(0.5, 1.5), yaw=0.4, top=2, colour=(1, 1, 1)),
        pyramid(1, 2, half=(0.8, 0.8), yaw=0.4, base=0.4, top=2, colour=(1, 1, 1)),
        gem(1, 2, height=1.5, size=(0.9, 0.6), yaw=0.4, colour=(1, 1, 1)),
    ],
    ids=["box", "pyramid", "gem"],
)
def test_a_solid_contains_its_centre_and_fits_its_sphere(solid):
    normals, offsets = np.array(solid.normals), np.array(solid.offsets)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    assert (normals @ solid.centre < offsets).all()
    rays = np.random.default_rng(0).normal(size=(2000, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    points = solid.centre + solid.radius * rays
    points = points[points[:, 1] < 1 - 1e-6]  # nobody sees points below the ground
    assert ((points @ normals.T > offsets - 1e-9).any(axis=1)).all()

"""Prompts of scenes: the place, the ground, the time of day and the weather in words.

The text encoder lists the words of all phrases (`WORDS` in `lingbot/text/pocket.py`).

Tested in `tests/pocket/test_scene.py`.
"""

from random import Random

from pocket.renderer.conditions import GROUND_WORDS, TIME_WORDS, WEATHER_WORDS, Conditions
from pocket.renderer.scene import Scene

PLACE_WORDS = {
    "town": ("a town", "streets and houses", "a village"),
    "pines": ("pine trees", "a pine forest", "firs"),
    "grove": ("leafy trees", "a grove", "round trees"),
    "lake": ("a lake", "by the water", "ponds"),
    "plain": ("open land", "a wide plain", "rocks"),
}


def write_prompt(
    scene: Scene, random: Random | None = None, *, changed_from: Conditions | None = None
) -> str:
    """Describe a scene in words, such as "pine trees, snow, low sun, clear sky".

    Without `random`, the prompt uses the first phrase of each kind. With `random`, the phrases and
    their order are drawn, and some phrases are left out. Conditions that differ from
    `changed_from` are never left out.
    """
    conditions = scene.conditions
    words = {
        "place": PLACE_WORDS[scene.place],
        "ground": GROUND_WORDS[conditions.ground],
        "time": TIME_WORDS[conditions.time],
        "weather": WEATHER_WORDS[conditions.weather],
    }
    if random is None:
        return ", ".join(choices[0] for choices in words.values())
    phrases = []
    for name, choices in words.items():
        new = getattr(changed_from, name, None) != getattr(conditions, name, None)
        if random.random() < 0.85 or (changed_from is not None and new):
            phrases.append(random.choice(choices))
    random.shuffle(phrases)
    return ", ".join(phrases)

"""Conditions of a scene that a prompt can change: time of day, weather and ground cover.

Conditions are separate from a scene's layout. A clip may change them while it runs, and every
solid stays where it is.

Tested in `tests/pocket/test_scene.py`.
"""

from dataclasses import dataclass, replace
from random import Random

Colour = tuple[float, float, float]  # red, green, blue in 0..1

TIMES = ("morning", "noon", "dusk", "night")
WEATHERS = ("clear", "overcast", "fog")
GROUNDS = ("grass", "sand", "snow", "rock")


@dataclass(frozen=True, slots=True)
class Conditions:
    """One choice of each; see TIMES, WEATHERS and GROUNDS."""

    time: str
    weather: str
    ground: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """The light of a time of day and a weather. `direct` and `ambient` multiply surface colours."""

    zenith: Colour
    horizon: Colour  # also the colour of fog
    sun: Colour  # the disc of the sun, or of the moon at night
    elevation: float  # sine of the sun's elevation angle
    direct: Colour
    ambient: Colour
    fog: float = 26.0  # distance in scene units at which 1/e of a colour is left
    clouds: float = 0.35  # approximate share of the sky that clouds cover


LIGHTS = {
    "morning": Light(
        zenith=(0.42, 0.64, 0.90),
        horizon=(0.98, 0.88, 0.74),
        sun=(1.0, 0.95, 0.80),
        elevation=0.35,
        direct=(1.05, 0.90, 0.66),
        ambient=(0.40, 0.43, 0.50),
    ),
    "noon": Light(
        zenith=(0.18, 0.46, 0.90),
        horizon=(0.74, 0.87, 0.97),
        sun=(1.0, 1.0, 0.92),
        elevation=0.80,
        direct=(0.72, 0.70, 0.64),
        ambient=(0.42, 0.45, 0.50),
    ),
    "dusk": Light(
        zenith=(0.28, 0.20, 0.46),
        horizon=(0.98, 0.50, 0.26),
        sun=(1.0, 0.82, 0.48),
        elevation=0.17,
        direct=(1.30, 0.62, 0.30),
        ambient=(0.34, 0.25, 0.34),
    ),
    "night": Light(
        zenith=(0.03, 0.05, 0.17),
        horizon=(0.13, 0.18, 0.36),
        sun=(0.90, 0.93, 1.0),
        elevation=0.50,
        direct=(0.20, 0.26, 0.42),
        ambient=(0.20, 0.24, 0.40),
    ),
}

TIME_WORDS = {
    "morning": ("in the morning", "at dawn", "morning light"),
    "noon": ("at noon", "by day", "midday sun"),
    "dusk": ("at dusk", "at sunset", "low sun"),
    "night": ("at night", "by moonlight", "dark night"),
}
WEATHER_WORDS = {
    "clear": ("clear sky", "clear weather", "sunny"),
    "overcast": ("overcast", "cloudy", "grey clouds"),
    "fog": ("fog", "thick mist", "foggy"),
}
GROUND_WORDS = {
    "grass": ("green grass", "a meadow", "grassland"),
    "sand": ("desert", "yellow sand", "dunes"),
    "snow": ("snow", "deep snow", "winter"),
    "rock": ("red rock", "red earth", "bare stone"),
}


def light_of(conditions: Conditions) -> Light:
    """Return the light of a time of day, dimmed by the weather."""
    light = LIGHTS[conditions.time]
    if conditions.weather == "clear":
        return light
    horizon = _greyed(light.horizon, 0.75)
    veiled = replace(
        light,
        horizon=horizon,
        zenith=_mixed(_greyed(light.zenith, 0.75), horizon, 0.5),
        sun=horizon,
        direct=_scaled(_greyed(light.direct, 0.6), 0.25),
        ambient=_scaled(_greyed(light.ambient, 0.3), 1.35),
        fog=20.0,
        clouds=0.9,
    )
    if conditions.weather == "overcast":
        return veiled
    return replace(veiled, zenith=horizon, fog=5.0, clouds=0.0)


def draw_conditions(random: Random) -> Conditions:
    """Draw times and grounds uniformly; clear weather is twice as likely as another."""
    return Conditions(
        time=random.choice(TIMES),
        weather=random.choice(("clear", *WEATHERS)),
        ground=random.choice(GROUNDS),
    )


def change_conditions(conditions: Conditions, random: Random) -> Conditions:
    """Draw conditions that differ in one, two or all three of time, weather and ground."""
    while True:
        other = draw_conditions(random)
        kept = [name for name in ("time", "weather", "ground") if random.random() < 0.5]
        other = replace(other, **{name: getattr(conditions, name) for name in kept})
        if other != conditions:
            return other


def _greyed(colour: Colour, share: float) -> Colour:
    grey = 0.3 * colour[0] + 0.55 * colour[1] + 0.15 * colour[2]
    return _mixed(colour, (grey, grey, grey), share)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a + share * (b - a) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (factor * channel for channel in colour)
    return red, green, blue

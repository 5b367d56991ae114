"""The check that a folder holds the model that its preset names. Imports no torch."""

import logging
from pathlib import Path

import msgspec

from lingbot.config import PRESETS, ModelConfig, Preset
from lingbot.errors import WeightsError

logger = logging.getLogger(__name__)


def check_shape(shape: ModelConfig, preset: Preset, *, folder: Path) -> None:
    """Raise WeightsError, with both shapes, for the model of another preset.

    A model of a width that no preset has is one of the operator's own: the log names both shapes.
    It has to take the preset's control maps, and the contexts of the pocket world's text encoder,
    if the preset has that one.
    """
    other = differences(shape, preset.model)
    if not other:
        return
    has, wants = (name_fields(each, other) for each in (shape, preset.model))
    text = f"{folder}: holds a model of {has}, but preset {preset.world.name!r} has {wants}"
    is_mute = preset.text_encoder == "hashed_words" and {"text_dim", "text_len"} & set(other)
    is_other = any(not differences(shape, each.model) for each in PRESETS.values())
    if is_mute or is_other or "control" in other:
        raise WeightsError(text)
    check_width(shape, folder=folder)
    logger.warning("%s", text)


def check_width(shape: ModelConfig, *, folder: Path) -> None:
    """Raise WeightsError for a model of a published width that differs in any other field.

    Such weights are published ones with a wrong config.json, or without some of their blocks.
    """
    published = [preset.model for preset in PRESETS.values() if preset.text_encoder == "umt5"]
    width = ["dim", "ffn_dim"]
    as_wide = [model for model in published if not {*width} & {*differences(shape, model)}]
    if not as_wide or shape in as_wide:
        return
    nearest = min(as_wide, key=lambda model: len(differences(shape, model)))
    has, wants = (name_fields(each, differences(shape, nearest)) for each in (shape, nearest))
    raise WeightsError(
        f"{folder}: holds a model of {has}, but the published one of "
        f"{name_fields(nearest, width)} has {wants}"
    )


def name_fields(shape: ModelConfig, names: list[str]) -> str:
    """Some fields of a shape, with their values."""
    return ", ".join(f"{name} {getattr(shape, name)}" for name in names)


def differences(shape: ModelConfig, other: ModelConfig) -> list[str]:
    """The fields in which two shapes differ."""
    one, two = msgspec.to_builtins(shape), msgspec.to_builtins(other)
    return [name for name in two if one[name] != two[name]]

"""The check that a folder holds the model that its preset names. Imports no torch."""

import logging
from pathlib import Path

import msgspec

from lingbot.config import PRESETS, ModelConfig, Preset
from lingbot.errors import WeightsError

logger = logging.getLogger(__name__)


def check_shape(shape: ModelConfig, preset: Preset, *, folder: Path) -> None:
    """Raise WeightsError, with both shapes, for the model of another preset.

    A model of a size that no preset has is one of the operator's own: the log names both shapes. It
    has to take the preset's control maps, and the contexts of the pocket world's text encoder, if
    the preset has that one.
    """
    other = differences(shape, preset.model)
    if not other:
        return
    found, expected = msgspec.to_builtins(shape), msgspec.to_builtins(preset.model)
    has = ", ".join(f"{name} {found[name]}" for name in other)
    wants = ", ".join(f"{name} {expected[name]}" for name in other)
    text = f"{folder}: holds a model of {has}, but preset {preset.world.name!r} has {wants}"
    is_mute = preset.text_encoder == "hashed_words" and {"text_dim", "text_len"} & set(other)
    is_other = any(not differences(shape, each.model) for each in PRESETS.values())
    if is_mute or is_other or "control" in other:
        raise WeightsError(text)
    logger.warning("%s", text)


def differences(shape: ModelConfig, other: ModelConfig) -> list[str]:
    """The fields in which two shapes differ."""
    one, two = msgspec.to_builtins(shape), msgspec.to_builtins(other)
    return [name for name in two if one[name] != two[name]]

"""Checks: a snapshot fits together, and its world can go on in a served one.

Imports no torch. Tested in `tests/lingbot/runtime/test_snapshot.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingbot.camera.motion import turn_pitch
from lingbot.config import PRESETS, Size, WorldConfig
from lingbot.errors import LingbotError

if TYPE_CHECKING:  # its `decode_snapshot` calls these
    from lingbot.runtime.snapshot import Snapshot

MAX_MORE_CHUNKS = 16  # beside those that are needed: each takes a pass


def check_snapshot(
    snapshot: "Snapshot", config: WorldConfig, *, fingerprint: str | None = None
) -> None:
    """Raise LingbotError with the wrong field unless this world can go on in a served one.

    `fingerprint` is that of the served weights; None, where it is unknown, compares none.
    """
    origin = snapshot.origin
    size = Size(origin.width, origin.height)
    expected = " or ".join(map(str, config.sizes))
    frames, most = origin.condition.shape[1], longest_condition(config)
    for name, is_right, value, must in (
        ("preset", origin.preset == config.name, origin.preset, repr(config.name)),
        ("fingerprint", fingerprint in (None, origin.fingerprint), origin.fingerprint, fingerprint),
        ("size", size in config.sizes, size, expected),
        ("chunk", origin.chunk == config.chunk, origin.chunk, config.chunk),
        ("window", origin.window <= config.window, origin.window, f"at most {config.window}"),
        ("condition", most is None or frames <= most, frames, f"at most {most} latent frames"),
    ):
        if not is_right:
            raise wrong_field(name, f"must be {must}, not {value!s:.140}")
    if origin.num_steps is not None and origin.num_steps > config.max_steps:
        raise wrong_field(
            "num_steps", f"must be at most {config.max_steps}, not {origin.num_steps}"
        )


def longest_condition(config: WorldConfig) -> int | None:
    """The latent frames of the longest condition: the changing ones, and a chunk that settled.

    None for a world of no preset.
    """
    preset, chunk = PRESETS.get(config.name), config.chunk
    return None if preset is None else (-(-preset.condition_frames // chunk) + 1) * chunk


def wrong_field(name: str, text: str) -> LingbotError:
    return LingbotError(f"snapshot.{name} {text}", field=f"snapshot.{name}")


def check_kept(snapshot: "Snapshot") -> None:
    """The chunks must be those of the sink, and the last ones without gaps."""
    origin, stop = snapshot.origin, snapshot.next_chunk
    indices = [chunk.index for chunk in snapshot.chunks]
    num_sink = min(origin.sink_chunks, stop)
    num_last = len(indices) - num_sink
    least = min(origin.window_chunks, stop - num_sink)
    expected = [*range(num_sink), *range(stop - num_last, stop)]
    if indices != expected or not least <= num_last <= least + MAX_MORE_CHUNKS:
        sink = f"the sink's {num_sink} and the last {least} to {least + MAX_MORE_CHUNKS}"
        raise wrong_field("chunks", f"must be {sink} of {stop}, not {indices[:40]}")


def check_pitches(snapshot: "Snapshot") -> None:
    """Kept chunks that follow one another, and the journal, must agree on actions and pitch."""
    pitches: dict[int, int] = {}
    if snapshot.journal is not None:
        pitch = 0
        for index, actions in enumerate(snapshot.journal.actions):
            pitches[index] = pitch
            pitch = pitch_after(pitch, actions, is_first=index == 0)
        pitches[snapshot.next_chunk] = pitch
        for number, chunk in enumerate(snapshot.chunks):
            if chunk.actions != snapshot.journal.actions[chunk.index]:
                raise wrong_field(f"chunks[{number}].actions", "must be those of the journal")
    else:
        pitches[0] = 0
        for chunk in snapshot.chunks:
            after = pitch_after(chunk.pitch, chunk.actions, is_first=chunk.index == 0)
            pitches[chunk.index + 1] = after
    found = [(f"chunks[{i}].pitch", one.index, one.pitch) for i, one in enumerate(snapshot.chunks)]
    for field, index, pitch in [*found, ("pitch", snapshot.next_chunk, snapshot.pitch)]:
        if pitches.get(index, pitch) != pitch:
            raise wrong_field(field, f"must be {pitches[index]} after the actions, not {pitch}")


def pitch_after(pitch: int, actions: Sequence[str], *, is_first: bool) -> int:
    """The pitch after a chunk's actions. The world's first latent frame never moves."""
    for action in actions[1:] if is_first else actions:
        pitch = turn_pitch(pitch, action)
    return pitch

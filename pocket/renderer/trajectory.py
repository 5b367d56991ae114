"""Random actions, and the camera poses that follow from them."""

from random import Random

import numpy as np

from lingbot.camera.motion import (
    PITCH_STEP,
    YAW_STEP,
    Poses,
    axis,
    pitch_matrix,
    relative_pose,
    yaw_matrix,
)

STEP = 0.32  # scene units walked in one latent frame
SUBFRAMES = 4  # frames of a latent frame after the first

WALKS = ("w", "w", "w", "w", "s", "a", "d")
TURNS = ("j", "l")
TILTS = ("i", "k")
HIGHEST_PITCH = 24  # degrees
STILL_SHARE, LOOK_AROUND_SHARE = 0.06, 0.12  # of all walks


def random_actions(random: Random, num_latent_frames: int) -> list[str]:
    """Draw the keys held in each latent frame; no key is held in the first.

    Some walks stand still from beginning to end, and some only look around.
    """
    kind = random.random()
    if kind < STILL_SHARE:
        return [""] * num_latent_frames
    looks_around = kind < STILL_SHARE + LOOK_AROUND_SHARE
    actions = [""]
    pitch = 0
    while len(actions) < num_latent_frames:
        action = _random_keys(random, pitch)
        if looks_around:
            action = "".join(key for key in action if key in "ijkl") or random.choice(TURNS)
        held = random.choice((1, 1, 2, 3, 4, 6, 9, 14))
        for _ in range(held):
            if abs(pitch + _tilt(action)) > HIGHEST_PITCH:
                break
            actions.append(action)
            pitch += _tilt(action)
    return actions[:num_latent_frames]


def steady_actions(random: Random, num_latent_frames: int) -> list[str]:
    """Draw one key, or none, and hold it in every latent frame but the first.

    Looking up or down ends at `HIGHEST_PITCH`.
    """
    key = random.choice(("w", "a", "s", "d", *TURNS, *TILTS, ""))
    held = num_latent_frames - 1
    if key in TILTS:
        held = min(held, HIGHEST_PITCH // PITCH_STEP)
    return ["", *[key] * held, *[""] * (num_latent_frames - 1 - held)]


def _random_keys(random: Random, pitch: int) -> str:
    kind = random.random()
    if kind < 0.10:
        return ""
    if kind < 0.42:
        return random.choice(WALKS)
    if kind < 0.50:
        return random.choice(("wa", "wd", "as", "sd"))
    if kind < 0.65:
        return random.choice(TURNS)
    if kind < 0.85:
        return random.choice(WALKS) + random.choice(TURNS)
    level = "k" if pitch > 0 else "i"  # towards the horizon, drawn more often than away from it
    tilt = level if random.random() < 0.65 and pitch else random.choice(TILTS)
    return random.choice(("", "", "w")) + random.choice(("", "", *TURNS)) + tilt


def walk_poses(actions: list[str], *, start: tuple[float, float, float]) -> tuple[Poses, Poses]:
    """Return the poses of a walk on the ground.

    `actions` are the keys of each latent frame; those of the first are ignored. `start` is x, z and
    the yaw in degrees. Returns relative poses of the latent frames [T, 4, 4] in model units, and
    camera-to-world poses of the frames [4T - 3, 4, 4] in scene units.
    """
    x, z, yaw = start
    pitch, place = 0, np.array([x, 0.0, z])
    relatives, frames = [np.eye(4)], [_pose(yaw, pitch, place)]
    for action in actions[1:]:
        relative, next_pitch = relative_pose(pitch, action)
        relatives.append(relative)
        turned = axis(action, "l", "j") * YAW_STEP
        walked = _pose(yaw, pitch, place)[:3, :3] @ relative[:3, 3] * STEP
        for part in np.arange(1, SUBFRAMES + 1) / SUBFRAMES:
            tilted = pitch + part * (next_pitch - pitch)
            frames.append(_pose(yaw + part * turned, tilted, place + part * walked))
        place, yaw, pitch = place + walked, yaw + turned, next_pitch
    return np.stack(relatives), np.stack(frames)


def _tilt(action: str) -> int:
    return axis(action, "i", "k") * PITCH_STEP


def _pose(yaw: float, pitch: float, place: Poses) -> Poses:
    pose = np.eye(4)
    pose[:3, :3] = yaw_matrix(yaw) @ pitch_matrix(pitch)
    pose[:3, 3] = place
    return pose

"""How pictures move: as the renderer knows it, and whether an estimate of it is the same.

Flow is in pixels, x to the right and y down, from one frame's pixels to the next frame. Shape
letters: H W pixels, M points.
"""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lingbot.camera.motion import Poses
from lingbot.camera.rays import default_intrinsics
from pocket.optical_flow import Flow, Frame
from pocket.renderer.render import FAR, Renderer, camera_rays

Mask = NDArray[np.bool_]

ALIGNMENT_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)  # steps, and gain
TURN_STRIDE = 8  # pixels between those that tell a turn
TEXTURE = 6.0  # the least gradient, in grey levels a pixel, at which an estimate means something


def true_flow(renderer: Renderer, poses: Poses, *, width: int, height: int) -> tuple[Flow, Mask]:
    """Two poses [2, 4, 4] -> flow of the first's pixels, and which of them the second sees too."""
    depths = renderer.depth(poses, width=width, height=height)
    place, depth = project(poses, depths[0].numpy(), width=width, height=height)
    rows, columns = np.mgrid[0:height, 0:width]
    flow = place - np.stack([columns, rows], axis=-1)
    return flow.astype(np.float32), seen_at(place, depth, depths[1].numpy())


def project(
    poses: Poses, depth: NDArray[np.float32], *, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the first pose's pixels of this depth [H, W] are for the second: [H, W, 2], [H, W]."""
    rays = camera_rays(width, height, (0.0, 0.0)).double().numpy()
    points = rays * depth[..., None].astype(np.float64)
    relative = np.linalg.inv(poses[1]) @ poses[0]
    moved = points @ relative[:3, :3].T + relative[:3, 3]
    fx, fy, cx, cy = default_intrinsics(width, height)
    ahead = np.maximum(moved[..., 2], 1e-6)
    x = moved[..., 0] / ahead * fx + cx - 0.5
    y = moved[..., 1] / ahead * fy + cy - 0.5
    return np.stack([x, y], axis=-1), moved[..., 2]


def seen_at(
    place: NDArray[np.float64], depth: NDArray[np.float64], seen: NDArray[np.float32]
) -> Mask:
    """Whether points at these places and depths are what a picture with depths `seen` shows."""
    height, width = seen.shape
    column, row = np.rint(np.clip(place, -1e6, 1e6)).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    there = seen[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    same = np.abs(there / np.maximum(depth, 1e-6) - 1) < 0.05
    both_sky = (there > FAR / 10) & (depth > FAR / 100)
    seen_there: Mask = inside & (same | both_sky)
    return seen_there


def textured(frame: Frame) -> Mask:
    """Where a frame has enough structure for its motion to be seen."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1)))
    mask: Mask = np.hypot(across, down) > TEXTURE
    return mask


def compare_flow(estimated: Flow, truth: Flow, where: Mask) -> tuple[float, float] | None:
    """How far the whole of one flow is turned from the other, in degrees, and their ratio.

    The turn and the stretch that fit best; None where too little is seen of it.
    """
    if where.sum() < 50:
        return None
    one, other = (flow[where].astype(np.float64) @ np.array([1, 1j]) for flow in (truth, estimated))
    power = (np.abs(one) ** 2).sum()
    if power < 1e-6:
        return None
    fit = (np.conj(one) * other).sum() / power
    return abs(math.degrees(np.angle(fit))), float(abs(fit))


def recovered_turn(before: Frame, after: Frame) -> tuple[float, float] | None:
    """Yaw to the right and pitch up, in degrees, between two frames of a camera that only turns.

    By the homography that aligns them best (enhanced correlation, Evangelidis and Psarakis, 2008),
    which soft pictures have too, where corners are few. None where the descent breaks down.
    """
    greys = [
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (before, after)
    ]
    homography: NDArray[np.float32] = np.eye(3, dtype=np.float32)
    for halvings in (2, 1, 0):  # coarse first: it is sought by descent
        factor = 0.5**halvings
        scale = np.diag([factor, factor, 1]).astype(np.float32)
        one, other = (
            cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            for grey in greys
        )
        begin = scale @ homography @ np.linalg.inv(scale)
        try:
            _, found = cv2.findTransformECC(
                one, other, begin, cv2.MOTION_HOMOGRAPHY, ALIGNMENT_STOP
            )
        except cv2.error:  # it lost its way
            return None
        homography = np.asarray(np.linalg.inv(scale) @ found @ scale, np.float32)
    return turn_of(homography.astype(np.float64), *greys[0].shape[::-1])


def turn_of(homography: NDArray[np.float64], width: int, height: int) -> tuple[float, float] | None:
    """Yaw and pitch of the turn that moves a picture's pixels most nearly as the homography does.

    Only pixels that stay in the picture count (Kabsch, 1976, on their rays): a homography has
    freedoms that a turn has not, and in a narrow view hardly a pixel tells them. None where no
    pixel stays.
    """
    fx, fy, cx, cy = default_intrinsics(width, height)
    camera = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    rows, columns = np.mgrid[0:height:TURN_STRIDE, 0:width:TURN_STRIDE]
    pixels = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    moved = homography @ pixels
    moved /= np.where(moved[2] > 0, moved[2], np.nan)
    stays = (moved[0] >= 0) & (moved[0] < width) & (moved[1] >= 0) & (moved[1] < height)
    if not stays.any():
        return None
    before, after = (
        rays / np.linalg.norm(rays, axis=0)
        for rays in (np.linalg.inv(camera) @ at[:, stays] for at in (pixels, moved))
    )
    u, _, v = np.linalg.svd(after @ before.T)
    turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    ahead = turn.T @ np.array([0, 0, 1.0])  # of the scene in the camera's axes
    yaw = math.degrees(math.atan2(ahead[0], ahead[2]))
    return yaw, math.degrees(math.asin(np.clip(-ahead[1], -1, 1)))


def seen_before(
    renderer: Renderer, poses: Poses, past: list[int], now: int, *, width: int, height: int
) -> Mask:
    """Which pixels of the frame `now` any of the frames `past` has shown."""
    size = {"width": width, "height": height}
    depths = renderer.depth(poses[[now, *past]], **size).numpy()
    seen = np.zeros((height, width), dtype=bool)
    for frame, depth in zip(past, depths[1:], strict=True):
        place, ahead = project(poses[[now, frame]], depths[0], **size)
        seen |= seen_at(place, ahead, depth)
    return seen


def as_frame(picture: torch.Tensor) -> Frame:
    """uint8 [H, W, 3]."""
    frame: Frame = np.ascontiguousarray(picture.numpy())
    return frame

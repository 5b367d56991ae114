"""Motion between frames: true flow from the renderer, and comparisons with estimated motion.

Flow is in pixels, x to the right and y down, from the pixels of one frame to the next frame. Shape
letters: H W pixels.
"""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lingbot.camera.motion import Poses
from lingbot.camera.rays import default_intrinsics
from pocket.optical_flow import Flow, Frame
from pocket.renderer.packed_solids import FAR
from pocket.renderer.render import Renderer, camera_rays

Mask = NDArray[np.bool_]

ALIGNMENT_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)  # steps, least gain
TURN_STRIDE = 8  # pixels between the rays to which a turn is fitted
MIN_GRADIENT = 6.0  # grey levels per pixel below which flow cannot be measured
MIN_PIXELS = 50  # pixels below which flows are not compared


def true_flow(renderer: Renderer, poses: Poses, *, width: int, height: int) -> tuple[Flow, Mask]:
    """Return the flow between two poses [2, 4, 4], and the pixels that both poses see."""
    depths = renderer.depth(poses, width=width, height=height)
    place, depth = project(poses, depths[0].numpy(), width=width, height=height)
    rows, columns = np.mgrid[0:height, 0:width]
    flow = place - np.stack([columns, rows], axis=-1)
    return flow.astype(np.float32), visible_at(place, depth, depths[1].numpy())


def project(
    poses: Poses, depth: NDArray[np.float32], *, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project the first pose's pixels, at depths [H, W], into the view of the second pose.

    Returns pixel places [H, W, 2] and depths [H, W].
    """
    rays = camera_rays(width, height, (0.0, 0.0)).double().numpy()
    points = rays * depth[..., None].astype(np.float64)
    relative = np.linalg.inv(poses[1]) @ poses[0]
    moved = points @ relative[:3, :3].T + relative[:3, 3]
    fx, fy, cx, cy = default_intrinsics(width, height)
    ahead = np.maximum(moved[..., 2], 1e-6)
    x = moved[..., 0] / ahead * fx + cx - 0.5
    y = moved[..., 1] / ahead * fy + cy - 0.5
    return np.stack([x, y], axis=-1), moved[..., 2]


def visible_at(
    place: NDArray[np.float64], depth: NDArray[np.float64], depth_map: NDArray[np.float32]
) -> Mask:
    """Return which points, given by pixel place and depth, are visible in a view.

    `depth_map` [H, W] is the view's own depth. Depths may differ by 5 %.
    """
    height, width = depth_map.shape
    column, row = np.rint(np.clip(place, -1e6, 1e6)).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    there = depth_map[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    same = np.abs(there / np.maximum(depth, 1e-6) - 1) < 0.05
    both_sky = (there > FAR / 10) & (depth > FAR / 100)
    visible: Mask = inside & (same | both_sky)
    return visible


def textured(frame: Frame) -> Mask:
    """Return the pixels with enough structure for their motion to be measured."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1)))
    mask: Mask = np.hypot(across, down) > MIN_GRADIENT
    return mask


def compare_flow(estimated: Flow, truth: Flow, mask: Mask) -> tuple[float, float] | None:
    """Fit the rotation and the scale that map the true flow to the estimate, on masked pixels.

    Returns the rotation in degrees and the scale. Returns None if the mask has fewer than
    `MIN_PIXELS` pixels, or nothing moves.
    """
    if mask.sum() < MIN_PIXELS:
        return None
    one, other = (flow[mask].astype(np.float64) @ np.array([1, 1j]) for flow in (truth, estimated))
    power = (np.abs(one) ** 2).sum()
    if power < 1e-6:
        return None
    fit = (np.conj(one) * other).sum() / power
    return abs(math.degrees(np.angle(fit))), float(abs(fit))


def estimate_turn(before: Frame, after: Frame) -> tuple[float, float] | None:
    """Estimate yaw to the right and pitch up, in degrees, of a camera that only turns.

    Fits the homography that aligns both frames best (enhanced correlation, Evangelidis and
    Psarakis, 2008). It also works on soft frames, which have few corners. Returns None if the
    iteration fails.
    """
    greys = [
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (before, after)
    ]
    homography: NDArray[np.float32] = np.eye(3, dtype=np.float32)
    for halvings in (2, 1, 0):  # coarse to fine, because the search is local
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
        except cv2.error:  # the search diverged
            return None
        homography = np.asarray(np.linalg.inv(scale) @ found @ scale, np.float32)
    return fit_turn(homography.astype(np.float64), *greys[0].shape[::-1])


def fit_turn(
    homography: NDArray[np.float64], width: int, height: int
) -> tuple[float, float] | None:
    """Fit yaw and pitch in degrees to the motion of pixels under a homography.

    Fits a rotation to the rays of pixels that stay in the frame (Kabsch, 1976). A homography has
    more degrees of freedom than a rotation, and a narrow view hardly constrains them. Returns None
    if no pixel stays.
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
    ahead = turn.T @ np.array([0, 0, 1.0])
    yaw = math.degrees(math.atan2(ahead[0], ahead[2]))
    return yaw, math.degrees(math.asin(np.clip(-ahead[1], -1, 1)))


def visible_before(
    renderer: Renderer, poses: Poses, past: list[int], now: int, *, width: int, height: int
) -> Mask:
    """Return the pixels of the frame `now` that any of the frames `past` has shown."""
    size = {"width": width, "height": height}
    depths = renderer.depth(poses[[now, *past]], **size).numpy()
    visible = np.zeros((height, width), dtype=bool)
    for frame, depth in zip(past, depths[1:], strict=True):
        place, ahead = project(poses[[now, frame]], depths[0], **size)
        visible |= visible_at(place, ahead, depth)
    return visible


def to_array(frame: torch.Tensor) -> Frame:
    """Convert a frame, uint8 [H, W, 3], to a contiguous array."""
    array: Frame = np.ascontiguousarray(frame.numpy())
    return array

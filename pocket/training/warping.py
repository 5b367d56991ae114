"""Whether what is made moves as the truth does, whatever it shows.

An error wants the right thing in the right place. Where neither is known for certain, it is least
for something that is soft and goes half of the way; yet how things move is known quite well, from
the past and the camera. Here what is made may show what it likes, as long as it goes where the
truth's pictures go.

Shape letters: N videos, F frames, H W pixels, P pairs of frames, h w pixels of half the size.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket.optical_flow import Flow, estimated_flow

AHEAD = 4  # frames from one of a pair to the other: a latent frame
EVERY = 2  # frames from pair to pair
NEIGHBOURHOOD = 8  # pixels of half the size, each way
LEAST_CHANGE = 3 / 255  # of the truth in a neighbourhood, for its motion to be told
MOST_LEFT = 0.25  # of that change by the motion that the estimator sees, or it sees amiss
NOTHING = 0.5 / 255  # a change that nobody sees


def begin_flow(true: Tensor) -> list[Future[Flow]]:
    """Let other threads find out how the truth [N, F, 3, H, W] moves: P flows, clip by clip.

    Begun early, they are there when `warping_error` wants them, and a GPU has not waited.
    """
    video = torch.round(true.detach().float().clamp(0, 1) * 255).to(torch.uint8)
    frames = video.movedim(2, -1).contiguous().cpu().numpy()
    starts = range(0, true.shape[1] - AHEAD, EVERY)
    return [
        _threads().submit(estimated_flow, clip[start], clip[start + AHEAD])
        for clip in frames
        for start in starts
    ]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="flow")


def warping_error(made: Tensor, true: Tensor, flows: list[Future[Flow]]) -> Tensor:
    """How badly the truth's motion explains the changes of what is made, 0 to 1.

    The error that is left when frames are warped by a flow (as in Lai et al., 2018), beside that of
    a still picture.

    Both [N, F, 3, H, W] in 0..1, `flows` the truth's of `begin_flow`. 0 for what moves alike, a
    half for what stands still or shows nothing, a fifth for what goes half of the way: of what the
    motion leaves unexplained, e, and what it would leave if nothing moved, s, each squared, it is
    e / (e + s), mean of all neighbourhoods in which the truth's own motion is told.
    """
    flow = torch.stack([torch.from_numpy(found.result()) for found in flows]).to(made.device)
    places = _places(flow)
    left, gone = _changes(made, places)
    with torch.no_grad():
        left_true, gone_true = _changes(true, places)
        told = (gone_true > LEAST_CHANGE**2) & (left_true < MOST_LEFT * gone_true)
    nothing = NOTHING**2
    share = (left + nothing) / (left + gone + 2 * nothing)
    return (share * told).sum() / told.sum().clamp(min=1)


def _places(flow: Tensor) -> Tensor:
    """Flow [P, H, W, 2] in pixels -> where `grid_sample` finds a picture of half the size."""
    halved = F.avg_pool2d(flow.movedim(-1, 1), 2).movedim(1, -1) / 2
    h, w = halved.shape[1:3]
    rows, columns = torch.meshgrid(
        torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij"
    )
    size = torch.tensor([w, h], device=flow.device)
    return (torch.stack([columns, rows], dim=-1) + halved + 0.5) / size * 2 - 1


def _changes(video: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """What the motion leaves of a video's changes, and what it makes of pictures that stand.

    Squared, mean of each neighbourhood: [P, 1, rows, columns] each.
    """
    grey = F.avg_pool2d(video.float().mean(2), 2)  # [N, F, h, w]
    before = grey[:, :-AHEAD:EVERY].flatten(0, 1)[:, None]
    after = grey[:, AHEAD::EVERY].flatten(0, 1)[:, None]
    moved, stood = (
        F.grid_sample(picture, places, padding_mode="border", align_corners=False)
        for picture in (after, before)
    )
    # Pixels that come from outside tell nothing.
    inside = (places.abs() <= 1).all(-1)[:, None]
    left, gone = ((picture - before).square() * inside for picture in (moved, stood))
    return _pool(left), _pool(gone)


def _pool(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, NEIGHBOURHOOD, NEIGHBOURHOOD // 2)

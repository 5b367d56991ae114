"""The warping error: how badly the true motion explains the changes of a generated video.

A squared error compares content and place at once. Under uncertainty of both it is least for soft
content that moves half of the way. But motion itself is nearly certain, given the past and the
camera. The warping error ignores content and penalises wrong motion only.

Shape letters: N videos, F frames, H W pixels, P pairs of frames, h w pixels of half the size.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket.optical_flow import Flow, estimated_flow

PAIR_DISTANCE = 4  # frames between the two of a pair: a latent frame
PAIR_STRIDE = 2  # frames from pair to pair
NEIGHBOURHOOD = 8  # pixels of half the size, along each axis
MIN_CHANGE = 3 / 255  # a neighbourhood of the truth with reliable flow changes more
MAX_RESIDUAL = 0.25  # share of that change that remains after warping by a reliable flow
INVISIBLE = 0.5 / 255  # a change that nobody sees


def begin_flow(true: Tensor) -> list[Future[Flow]]:
    """Start estimating P flows of the truth [N, F, 3, H, W], clip by clip, in other threads.

    If started early, they are ready when `warping_error` needs them, and a GPU does not wait.
    """
    video = torch.round(true.detach().float().clamp(0, 1) * 255).to(torch.uint8)
    frames = video.movedim(2, -1).contiguous().cpu().numpy()
    starts = range(0, true.shape[1] - PAIR_DISTANCE, PAIR_STRIDE)
    return [
        _threads().submit(estimated_flow, clip[start], clip[start + PAIR_DISTANCE])
        for clip in frames
        for start in starts
    ]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="flow")


def warping_error(generated: Tensor, true: Tensor, flows: list[Future[Flow]]) -> Tensor:
    """Return how badly the true motion explains the changes of the generated video, 0 to 1.

    Both videos are [N, F, 3, H, W] in 0..1; `flows` are those of `begin_flow(true)`. Frames are
    warped by the true flow (as in Lai et al., 2018). With the squared residual e of the generated
    video, and the squared residual s of a still video, the error is e / (e + s). It is averaged
    over all neighbourhoods in which the true flow is reliable.

    The error is 0 for equal motion, 1/2 for a still or blank video, and 1/5 for motion that goes
    half of the way.
    """
    flow = torch.stack([torch.from_numpy(f.result()) for f in flows]).to(generated.device)
    places = _places(flow)
    residual, still_residual = _residuals(generated, places)
    with torch.no_grad():
        true_residual, true_change = _residuals(true, places)
        reliable_flow = true_change > MIN_CHANGE**2
        reliable_flow &= true_residual < MAX_RESIDUAL * true_change
    epsilon = INVISIBLE**2
    share = (residual + epsilon) / (residual + still_residual + 2 * epsilon)
    return (share * reliable_flow).sum() / reliable_flow.sum().clamp(min=1)


def _places(flow: Tensor) -> Tensor:
    """Convert flow [P, H, W, 2] in pixels to the coordinates of `grid_sample` at half the size."""
    halved = F.avg_pool2d(flow.movedim(-1, 1), 2).movedim(1, -1) / 2
    h, w = halved.shape[1:3]
    rows, columns = torch.meshgrid(
        torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij"
    )
    size = torch.tensor([w, h], device=flow.device)
    return (torch.stack([columns, rows], dim=-1) + halved + 0.5) / size * 2 - 1


def _residuals(video: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the residuals of warping a video, and of warping its frames as if they stood still.

    Squared, mean of each neighbourhood: [P, 1, rows, columns] each.
    """
    grey = F.avg_pool2d(video.float().mean(2), 2)  # [N, F, h, w]
    before = grey[:, :-PAIR_DISTANCE:PAIR_STRIDE].flatten(0, 1)[:, None]
    after = grey[:, PAIR_DISTANCE::PAIR_STRIDE].flatten(0, 1)[:, None]
    warped, still = (
        F.grid_sample(frame, places, padding_mode="border", align_corners=False)
        for frame in (after, before)
    )
    inside = (places.abs() <= 1).all(-1)[:, None]  # pixels from outside the frame do not count
    residual, still_residual = ((frame - before).square() * inside for frame in (warped, still))
    return _pool(residual), _pool(still_residual)


def _pool(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, NEIGHBOURHOOD, NEIGHBOURHOOD // 2)

"""Optical flow estimated from frames, for training and evaluation.

Flow is in pixels, x to the right and y down, from the pixels of one frame to the next frame.

Tested in `tests/pocket/test_motion.py`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # [H, W, 3]
Flow = NDArray[np.float32]  # [H, W, 2]


def estimated_flow(before: Frame, after: Frame) -> Flow:
    """Estimate flow by dense inverse search (Kroeger et al., 2016), as implemented in OpenCV."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    one, other = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after))
    flow = search.calc(one, other, None)  # type: ignore[call-overload]  # no initial flow
    return np.asarray(flow, np.float32)

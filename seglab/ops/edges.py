"""Boundaries of a label map, bit for bit those of ``cv2.Canny(label, 0.1, 0.2)`` and ``cv2.dilate``, on any device.

With thresholds that round to 0 Canny's hysteresis never acts, and what is left is local arithmetic: Sobel derivatives
dx, dy with replicated border, magnitude m = |dx| + |dy|, and the suppression of all but local maxima across the edge,
whose direction is sorted into three sectors by an integer comparison with tan 22.5 degrees. Label *values* matter: the
step 3 -> 4 and the step 0 -> 255 behave differently where they meet. Integers are wide, so any number of classes works.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAN_22 = 13573
"""tan(22.5 degrees) in OpenCV's fixed point of 15 bits; tan(67.5 degrees) is 2 more."""


def canny(label: Tensor) -> Tensor:
    """Thin edges [B, h, w] bool of an integer label map [B, h, w]; void is a value like any other."""
    # Replicating pads exist for floats only; float32 holds every label below 2^24 exactly.
    p = F.pad(label[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].long()
    rows = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    columns = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    dx, dy = rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2]
    m = dx.abs() + dy.abs()

    q = F.pad(m, (1, 1, 1, 1))
    middle = slice(1, -1)
    left, right = q[:, middle, :-2], q[:, middle, 2:]
    above, below = q[:, :-2, middle], q[:, 2:, middle]
    falling = (m > q[:, :-2, :-2]) & (m > q[:, 2:, 2:])
    rising = (m > q[:, :-2, 2:]) & (m > q[:, 2:, :-2])

    t, y = dx.abs() * TAN_22, dy.abs() << 15
    diagonal = torch.where((dx < 0) != (dy < 0), rising, falling)
    vertical = torch.where(y > t + (dx.abs() << 16), (m > above) & (m >= below), diagonal)
    return (m > 0) & torch.where(y < t, (m > left) & (m >= right), vertical)


def edge_mask(label: Tensor, size: int = 3, border: int = 6) -> Tensor:
    """Thick edges [B, h, w] bool: Canny's, cleared in a border of some pixels, grown by a size x size square.

    A map with a side of at most twice the border has no edges.
    """
    thin = canny(label)
    h, w = thin.shape[-2:]
    if h <= 2 * border or w <= 2 * border:
        return torch.zeros_like(thin)
    inner = thin[:, border : h - border, border : w - border].float()
    # An even square reaches one pixel further up and left.
    before, after = border + size // 2, border + size - 1 - size // 2
    return F.max_pool2d(F.pad(inner, (before, after, before, after)), size, stride=1) > 0

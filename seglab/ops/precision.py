"""Float32 or wider, whatever the ambient precision: in less, squares overflow and sums over an image drown."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """The tensor in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the tensor's device."""
    return torch.autocast(x.device.type, enabled=False)

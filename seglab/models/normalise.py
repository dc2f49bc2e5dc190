"""From 8-bit images to the numbers a backbone was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(placeholder until the data side is merged) floating images pass, uint8 is normalised."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))

    def forward(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image
        mean, std = (torch.tensor(x, device=image.device).view(3, 1, 1) for x in (self.mean, self.std))
        return (image.float() - mean) / std

"""Two vectors of a class -> its prototype: what it looks like here, and what it looks like in general."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seglab.checks import one_of, within


class Projector(nn.Module):
    """``forward(first, second) -> [..., C]``: both [..., C], concatenated in this order, then a small network.

    Args:
        channels: C.
        kind: mlp is Linear(2C -> wC, no bias), ReLU, Linear(wC -> C); linear is one Linear(2C -> C).
        width: w.

    Raises:
        ConfigError: unknown kind, width not above 0.
    """

    def __init__(self, channels: int, kind: str = "mlp", width: float = 0.5) -> None:
        super().__init__()
        one_of("classifier.projector", kind, ("mlp", "linear"))
        hidden = max(1, int(within("classifier.projector_width", width, 0, open_low=True) * channels))
        self.layers = (
            nn.Sequential(nn.Linear(2 * channels, channels))
            if kind == "linear"
            else nn.Sequential(nn.Linear(2 * channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels))
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.layers(torch.cat(torch.broadcast_tensors(first.to(dtype), second.to(dtype)), dim=-1))

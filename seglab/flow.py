"""Optical flow is an input: ``flow(frame_a, frame_b) -> [B, 2, H, W]``, and whoever computes it can be put there.

Channels are (dx, dy) in pixels, from each frame a to its frame b; frames are [B, 3, H, W] uint8 RGB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab import weightfile
from seglab.errors import CheckpointError, ConfigError


class FlowProvider(Protocol):
    """Computes flow from two frames."""

    def __call__(self, frame_a: Tensor, frame_b: Tensor) -> Tensor:
        """[B, 2, H, W] float32 from frames [B, 3, H, W] uint8."""


class Zero:
    """Nothing moves."""

    def __call__(self, frame_a: Tensor, frame_b: Tensor) -> Tensor:
        return frame_a.new_zeros(len(frame_a), 2, *frame_a.shape[-2:], dtype=torch.float32)


class Raft:
    """RAFT (Teed, Deng: "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020), torchvision's
    ``raft_small``: frozen, on the frames' device, opened at first use.

    Frames are padded at their right and bottom border to sides of at least 128 that 8 divides, as the network needs.

    Args:
        weights: a .pth or .safetensors file of its state dict, as torchvision publishes it (raft_small_C_T_V2).
        updates: of the flow, one after another; 12 as published.

    Raises:
        CheckpointError: no such file, or one that is not of this network.
        ConfigError: no update at all.
    """

    def __init__(self, weights: str, updates: int = 12) -> None:
        if not Path(weights).expanduser().is_file():
            raise CheckpointError(
                f"{weights} is not a file — expected the weights of torchvision's raft_small; set weights=FILE of the "
                "flow's node (metrics.temporal.flow.weights, loss.motion.flow.weights), or give flow with the data"
            )
        if updates < 1:
            raise ConfigError(f"flow.updates={updates} — expected at least 1")
        self.weights = weights
        self.updates = updates
        self.network: torch.nn.Module | None = None

    def __call__(self, frame_a: Tensor, frame_b: Tensor) -> Tensor:
        network = self.opened().to(frame_a.device)
        height, width = frame_a.shape[-2:]
        pad = [max(128, -(-side // 8) * 8) - side for side in (width, height)]
        a, b = (F.pad(x.float() / 127.5 - 1, (0, pad[0], 0, pad[1]), mode="replicate") for x in (frame_a, frame_b))
        with torch.no_grad(), torch.autocast(frame_a.device.type, enabled=False):
            flow: Tensor = network(a, b, num_flow_updates=self.updates)[-1]
        return flow[..., :height, :width]

    def opened(self) -> torch.nn.Module:
        """The network with its weights."""
        if self.network is None:
            from torchvision.models.optical_flow import raft_small

            network: torch.nn.Module = raft_small(weights=None)
            path = Path(self.weights).expanduser()
            state = (
                weightfile.read_safetensors(path)
                if path.suffix == ".safetensors"
                else weightfile.state_of(weightfile.read(path))
            )
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{path} does not fit torchvision's raft_small ({str(error).splitlines()[0]}) — set weights=FILE"
                ) from error
            self.network = network.requires_grad_(False).eval()
        return self.network

    def __deepcopy__(self, memo: dict[int, object]) -> Raft:
        return self  # a copy of a loss term (averaging) shares it

"""The effective receptive field: which pixels of the image the centre of a network's output depends on, and how much.

After Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016:

    g(p) = mean over images of  sum_c |d(s . y(centre)) / dx_c(p)|          y: [C, h, w],  s: signs +1 and -1 at random

Random signs, because the gradient of a plain sum over the channels would cancel where channels disagree. Images are
noise. Two sizes are given, both in pixels of the image:

    size       sqrt of the number of pixels with g >= 4.55 % of its largest value (Luo et al.)
    side(t)    side of the smallest square about the centre that holds the share t of the sum of g

A batch normalisation that has seen no image (a network at its initial weights) would leave the activations unscaled:
its statistics are taken from the noise first. Where its weights are all 0, they are set to 1: timm starts its residual
networks so, which are then no deeper than their shortcuts, until training opens the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seglab.errors import ConfigError
from seglab.types import Size

THRESHOLD = 0.0455
"""1 - 95.45 %: two standard deviations of a Gaussian."""
SHARES = (0.5, 0.95)


@dataclass(frozen=True)
class ReceptiveField:
    """What :func:`measure` found."""

    gradient: np.ndarray
    """[H, W] g, its largest value 1."""
    size: float
    """Pixels."""
    sides: Mapping[float, int]
    """Pixels, by share."""


def calibrate(network: nn.Module, image: Tensor) -> None:
    """Give batch normalisations that have seen no image the statistics of this one [B, 3, H, W], and open branches."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [m for m in layers if m.num_batches_tracked is not None and int(m.num_batches_tracked) == 0]
    momenta = [m.momentum for m in fresh]
    for layer in fresh:
        layer.momentum = 1.0
        layer.train()
        if layer.weight is not None and not layer.weight.any():
            nn.init.ones_(layer.weight)
    with torch.no_grad():
        network(image)
    for layer, momentum in zip(fresh, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def measure(
    network: nn.Module, output: Callable[[Tensor], Tensor], size: Size, images: int = 8, seed: int = 0
) -> ReceptiveField:
    """The receptive field of the middle of ``output(image)``, a map [B, C, h, w] of the network.

    Args:
        network: it is left in evaluation mode, and batch normalisations that have seen no image changed as said above.
        size: of the images, [height, width].
        images: how many are averaged over.

    Raises:
        ConfigError: the centre depends on no pixel.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    network.eval().requires_grad_(False)
    total = torch.zeros(size, dtype=torch.float64)
    try:
        calibrate(network, torch.randn(2, 3, *size, generator=generator).to(device))
        for _ in range(images):
            image = torch.randn(1, 3, *size, generator=generator).to(device).requires_grad_()
            made = output(image)
            signs = torch.randint(2, (made.shape[1],), generator=generator).to(made) * 2 - 1
            centre = made[0, :, made.shape[2] // 2, made.shape[3] // 2]
            (gradient,) = torch.autograd.grad((centre * signs).sum(), image)
            total += gradient[0].abs().sum(0).double().cpu()
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    if not (total.max() > 0 and total.isfinite().all()):
        raise ConfigError(
            "the centre of the output depends on no pixel, or on all without bound — expected a network whose "
            "gradients are finite numbers; choose other weights"
        )
    relative = (total / total.max()).numpy()
    return ReceptiveField(relative, float(np.sqrt((relative >= THRESHOLD).sum())), sides(relative, SHARES))


def sides(gradient: np.ndarray, shares: Sequence[float]) -> dict[float, int]:
    """Side of the smallest square about the middle of [H, W] that holds each share of the sum; odd numbers."""
    height, width = gradient.shape
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    distance = np.maximum(rows[:, None], columns[None, :])
    within = np.cumsum(np.bincount(distance.ravel(), gradient.ravel()))
    return {share: 2 * int(np.searchsorted(within, share * within[-1] * (1 - 1e-12))) + 1 for share in shares}


def draw(found: Mapping[str, ReceptiveField], title: str, path: Path) -> None:
    """One panel for each network: g to the power 1/4, so that its tails are seen, and the squares of its shares."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 4.7 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (name, field) in zip(axes.flat, found.items(), strict=False):
        height, width = field.gradient.shape
        axis.imshow(field.gradient**0.25, cmap="magma", vmin=0, vmax=1)
        for side, style in zip(field.sides.values(), ("-", "--"), strict=True):
            corner = (width // 2 - side / 2, height // 2 - side / 2)
            axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle=style, linewidth=1))
        shares = ", ".join(f"{share:.0%} in {side}" for share, side in field.sides.items())
        axis.set_title(f"{name}\nsize {field.size:.0f} px; {shares} px", fontsize=8)
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)

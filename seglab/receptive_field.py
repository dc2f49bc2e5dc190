"""The effective receptive field: which pixels of the image the centre of a network's output depends on, and how much.

After Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016:

    g(p) = mean over images of  sum_c |d(s . y(centre)) / dx_c(p)|          y: [C, h, w],  s: signs +1 and -1 at random

Random signs, because the gradient of a plain sum over the channels would cancel where channels disagree. Images are
noise. Two sizes are given, both in pixels of the image:

    size       sqrt of the number of pixels with g >= 4.55 % of its largest value (Luo et al.)
    side(t)    side of the smallest square about the centre that holds the share t of the sum of g

A batch normalisation that has seen no image (a network at its initial weights) would leave the activations unscaled:
its statistics are taken from the noise first. Where its weights are all 0 they are set to 1. timm starts the residual
branches of its ResNets so, and no gradient passes a closed branch: the measure would be of the shortcuts alone.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seglab import checks, trust
from seglab.errors import CheckpointError, ConfigError
from seglab.timing import build_configured
from seglab.types import Size

THRESHOLD = 0.0455
"""1 - 95.45 %: two standard deviations of a Gaussian."""
SHARES = (0.5, 0.95)
KEY = "receptive_field"
"""Asks ``python -m seglab.benchmark`` for it: false, true (of the backbone) or one of :data:`MAPS`."""
MAPS = {"backbone": "the backbone's coarsest map", "logits": "the logits"}


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


@dataclass(frozen=True)
class Comparison:
    """The receptive fields of several networks."""

    title: str
    fields: Mapping[str, ReceptiveField]
    """By the network's name and the kind of its weights."""
    left_out: Sequence[str]
    """What could not be measured, and why."""


def asked(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """The other overrides, and the map of :data:`MAPS` whose receptive field is asked for, or None.

    Raises:
        ConfigError: another value.
    """
    values = [each.partition("=")[2] for each in overrides if each.partition("=")[0] == KEY]
    rest = [each for each in overrides if each.partition("=")[0] != KEY]
    if not values or values[-1] == "false":
        return rest, None
    return rest, checks.one_of(KEY, "backbone" if values[-1] == "true" else values[-1], tuple(MAPS))


def starts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A configuration with its initial weights, and as it is where it asks for others."""
    initial = trust.without_weights(config)
    return {"initial": initial} | ({"pretrained": config} if initial["backbone"] != config["backbone"] else {})


def of_networks(
    configs: Mapping[str, dict[str, Any]], of: str, size: Size, classes: int, device: torch.device, images: int
) -> Comparison:
    """The receptive fields of composed configurations, by their names.

    Args:
        of: of :data:`MAPS`.
        size: of the images, [height, width].
        images: how many are averaged over.
    """
    fields, left_out = {}, []
    for name, given in configs.items():
        for start, config in starts(given).items():
            try:
                model: Any = build_configured(config, classes).model.to(device)
            except CheckpointError as error:
                left_out.append(f"{name}, {start} weights: left out. {error}")
                continue

            def output(image: Tensor, model: Any = model) -> Tensor:
                made: Tensor = model.backbone(image)[-1] if of == "backbone" else model(image).logits
                return made if made.ndim == 4 else made[:, :, None, None]

            fields[f"{name}, {start} weights"] = measure(model, output, size, images)
    title = f"what the centre of {MAPS[of]} depends on: {images} noise images of {size[0]}x{size[1]}"
    return Comparison(title, fields, left_out)


def report(found: Comparison, json_file: Path | None = None, image_file: Path | None = None) -> None:
    """Print the sizes, and keep them and the drawing where it was asked for."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=found.title)
    table.add_column("network")
    for heading in ("size, px", *(f"square with {share:.0%}, px" for share in SHARES)):
        table.add_column(heading, justify="right")
    for name, each in found.fields.items():
        table.add_row(name, f"{each.size:.0f}", *(str(side) for side in each.sides.values()))
    console = Console(width=max(Console().width, 130))
    console.print(table)
    for note in found.left_out:
        console.print(note)
    if json_file:
        rows = [
            {"variant": name, "size_px": each.size, "squares_px": {str(k): v for k, v in each.sides.items()}}
            for name, each in found.fields.items()
        ]
        command = shlex.join(["python", "-m", "seglab.benchmark", *sys.argv[1:]])
        content = {"command": command, "setting": found.title, "variants": rows, "left_out": list(found.left_out)}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    if image_file and found.fields:
        draw(found.fields, found.title, image_file)


def draw(found: Mapping[str, ReceptiveField], title: str, path: Path) -> None:
    """One panel for each network: g to the power 1/4, so that its tails are seen, and the squares of its shares."""
    import matplotlib

    matplotlib.use("Agg")
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

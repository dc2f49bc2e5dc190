"""Training of the inverse-transformation network that InverseForm's loss term holds: R^2 of the estimated parameters.

It needs label maps and nothing of the images. Pairs of tiles are made of them on the device, seglab.tasks.pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglab import visualize
from seglab.checks import within
from seglab.errors import ConfigError
from seglab.inference import Network
from seglab.metrics.transformation import SHIFTS
from seglab.models.base import Model
from seglab.models.inverse_net import InverseNet
from seglab.tasks.base import Make, Panel, Task
from seglab.tasks.pairs import Draw, Pairs
from seglab.types import IGNORE, Batch, Evaluated, Output, Score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seglab.predictors.base import Opened, Predictor

SHOWN = 128
"""Side of a tile as it is shown, in pixels, unless told otherwise."""
ATTEMPTS = 10
"""Windows of a label map of which the first with two classes is taken in an evaluation."""


class InverseNetTraining(Task):
    """See :class:`seglab.tasks.base.Task`; the network is an :class:`InverseNet`.

    In training every pair is drawn anew: one of each of ``windows`` windows of every label map. An evaluation makes the
    same pairs of a label map each time: of each window one that is warped at random, and one for each shift in
    ``SHIFTS``.

    Args:
        pairs: how pairs are made.
        windows: of each label map.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("normalize", "inverse_net")
    TRAINING_PARTS: ClassVar[tuple[str, ...]] = ()
    COMPARED: ClassVar[frozenset[str]] = frozenset({"transformation"})
    headline: ClassVar[Score] = Score("R2")
    model: InverseNet

    def __init__(self, *, pairs: Pairs | None = None, windows: int = 4, **others: Any) -> None:
        super().__init__(**others)
        self.pairs = pairs or Pairs()
        self.windows = int(within("task.windows", windows, 1))

    @classmethod
    def assemble(cls, make: Make) -> Model:
        return InverseNet(make("normalize"), make("inverse_net"))

    def output(self, batch: Batch, wanted: frozenset[str] = frozenset(), compiled: bool = True) -> Output:
        assert batch.label is not None, "the task needs labels"
        tile, transformations = self.model.tile, self.model.transformations
        windows = self.pairs.windows(batch.label, tile, self.windows)
        draw = self.pairs.draw(len(windows), transformations.parameters, tile).to(windows.device)
        tiles = self.pairs.make(windows, draw, transformations, tile)
        network = self.model if compiled else self.model.forward
        output: Output = network(tiles, draw.vector, wanted=self.wanted | wanted)
        return output

    def score(self, batch: Batch, observed: frozenset[str]) -> Evaluated:
        assert batch.label is not None, "the task needs labels"
        made = [self.windows_of(label, name) for label, name in zip(batch.label, batch.names, strict=True)]
        draw = Draw.joined([each for _, draws in made for each in draws]).to(batch.label.device)
        windows = torch.cat([found for found, _ in made])
        groups = 1 + len(SHIFTS)
        tiles = self.pairs.make(windows.repeat_interleave(groups, 0), draw, self.model.transformations, self.model.tile)
        names = tuple(name for name in batch.names for _ in range(self.windows * groups))
        output: Output = self.model(tiles, draw.vector)
        group = torch.arange(-1, len(SHIFTS), device=tiles.device).repeat(len(windows))
        output = replace(output, extra={**output.extra, "group": group})
        return Evaluated(batch=replace(batch, image=tiles, names=names), scores=output.logits, output=output)

    def windows_of(self, label: Tensor, name: str) -> tuple[Tensor, list[Draw]]:
        """Windows [W, s, s] of a label map [H, W], and for each the draw of its pairs; a function of its name alone."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        tile, side = self.model.tile, self.pairs.side(self.model.tile)
        lacking = [max(side - label.shape[axis], 0) for axis in (-2, -1)]
        label = F.pad(label, (0, lacking[1], 0, lacking[0]), value=IGNORE)
        found = []
        for _ in range(self.windows):
            for _ in range(ATTEMPTS):
                top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in label.shape)
                window = label[top : top + side, left : left + side]
                if window.amin() < window.amax():
                    break
            found.append(window)
        return torch.stack(found), [self.draw(tile, generator) for _ in found]

    def draw(self, tile: int, generator: torch.Generator) -> Draw:
        """A warp at random, then the shifts along one axis, all within their own degradation."""
        transformations = self.model.transformations
        draw = self.pairs.draw(1 + len(SHIFTS), transformations.parameters, tile, generator)
        vector = torch.rand(draw.vector.shape, generator=generator) * 2 - 1
        axis, sign = (int(torch.randint(2, (), generator=generator)) for _ in range(2))
        vector[1:] = 0
        vector[1:, axis] = (2 * sign - 1) * torch.tensor(SHIFTS) * 2 / tile / transformations.ranges[axis]
        return draw._replace(vector=vector)

    def infer(self, network: Network, image: Tensor, batch: Batch, target: Tensor | None) -> Tensor:
        raise ConfigError("task=inverse_net estimates transformations of tiles, and predicts nothing of images")

    def show(self, seen: Evaluated, index: int, width: int | None = None) -> Panel:
        # The first pair of that label map: one that is warped at random.
        first = index * self.windows * (1 + len(SHIFTS))
        tiles = (seen.batch.image[first] * 255).byte().cpu().numpy()
        side = width or SHOWN
        shown = [visualize.fit(np.repeat(tile[..., None], 3, 2), side) for tile in tiles]
        gap = np.full((shown[0].shape[0], 4, 3), 255, np.uint8)
        return Panel(np.concatenate([shown[0], gap, shown[1]], 1))

    def summary(self, results: Mapping[str, Any], title: str, classes: bool = True) -> RenderableType:
        fits = "   ".join(f"{name} {value:.3f}" for name, value in results.items() if name.startswith("R2"))
        lengths = "   ".join(f"{name} {value:.3f}" for name, value in results.items() if name.startswith("length"))
        verdict = "accepted" if results.get("accepted") else "not accepted as a loss"
        return f"{title}: {fits}\n{lengths}   {verdict}"

    @classmethod
    def predictor(cls, opened: Opened) -> Predictor:
        raise ConfigError(
            "a network of task=inverse_net estimates transformations of tiles, and predicts nothing of images — "
            "expected a segmentation network; this one serves as loss.inverse.network.path of regularizer=inverseform"
        )

"""The one LightningModule: step, log, optimise. What is learnt and how it is measured is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from seglab import checkpoint as checkpoints
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError
from seglab.inference import Protocol, infer
from seglab.losses.base import Criterion
from seglab.segmenter import Segmenter
from seglab.types import Batch, Output


@dataclass(frozen=True)
class Evaluated:
    """One evaluated batch, as :attr:`SegmentationModule.observers` get it."""

    batch: Batch
    logits: Tensor
    """[B, K, h, w] the scores that the metrics got."""
    output: Output
    """The network's output for the whole picture; with what labels give where a loss term needs it."""
    passes: tuple[Output, ...]
    """Every pass of the network that the scores are made of (windows, views), in their order."""
    protocol: Protocol

    @property
    def label(self) -> Tensor:
        """[B, H, W] of the batch."""
        assert self.batch.label is not None, "an evaluated split has labels"
        return self.batch.label

    def scores(self, read: Callable[[Output], Tensor]) -> Tensor:
        """Scores as ``logits`` are, of something else that each pass says; the network is not run again."""
        passes = iter(self.passes)
        return infer(lambda _: read(next(passes)), self.batch.image, self.protocol, self.label.shape[-2:])


class SegmentationModule(L.LightningModule):
    """Trains and evaluates a :class:`Segmenter`.

    Args:
        optimisation: ``(model, total_steps) -> `` what Lightning's ``configure_optimizers`` returns; null to evaluate.
        protocol: how pictures are resized, cut and flipped in evaluation.
        config: the resolved configuration, which travels in every checkpoint.
        seed: dropout is a function of (seed, batch number, rank), so that a resumed run repeats an uninterrupted one.
        oracle: evaluate the branch that reads the labels instead of the prediction (an upper bound, not a result).
        channels_last: keep the network's weights and images in that memory format.
        compile: compile the network.
    """

    def __init__(
        self,
        model: Segmenter,
        criterion: Criterion,
        metrics: Mapping[str, Metric],
        optimisation: Callable[[nn.Module, int], dict[str, Any]] | None,
        protocol: Protocol,
        spec: DatasetSpec,
        config: dict[str, Any],
        seed: int = 0,
        oracle: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.metrics = nn.ModuleDict(dict(metrics))
        # Means over pictures, of whatever number each process has.
        self.averages = nn.ModuleDict({name: MeanMetric() for name in ("loss", *criterion.terms)})
        self.optimisation = optimisation
        self.protocol = protocol
        self.spec = spec
        self.config = config
        self.seed = seed
        self.oracle = oracle
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.results: dict[str, Any] = {}
        """What the last evaluation found, per-class lists included. Callbacks may add to it at its epoch's end."""
        self.observers: list[Callable[[Evaluated], None]] = []
        """Called with every evaluated batch. Outputs are kept for them until the batch is done."""
        self.parts: dict[str, Tensor] = {}
        """The loss terms of the last training batch, unweighted."""
        self.wanted = criterion.branches
        """What the loss terms read."""
        self.needs_labels = oracle or bool(self.wanted & model.classifier.Output.label_branches())
        self.model.to(memory_format=self.memory_format)
        if compile:
            self.model.compile()

    def forward(self, image: Tensor, label: Tensor | None = None) -> Output:
        """Image [B, 3, H, W] -> the network's output, with a label all that the loss terms read.

        The label reaches the network only if one of them needs it there.
        """
        image = image.contiguous(memory_format=self.memory_format)
        if label is None:
            return self.model(image)
        return self.model(image, label if self.needs_labels else None, wanted=self.wanted)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.seed, batch_idx, self.global_rank)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.criterion(self.train_on(batch), batch, self.global_step)
        self.parts = losses.parts
        self.log("train/loss", losses.total.detach(), prog_bar=True)
        values = {f"train/{name}": value for name, value in losses.parts.items()}
        self.log_dict({**values, "step": float(self.global_step + 1)})  # the axis is the optimiser's step, this one
        return losses.total

    def train_on(self, batch: Batch) -> Output:
        """The network's output for a training batch; ConfigError where batch normalisation has nothing to average."""
        try:
            return self(batch.image, batch.label)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's, of the first layer that has only one
                raise
            height, width = batch.image.shape[-2:]
            raise ConfigError(
                f"data.batch_size={len(batch)} with an image of {height}x{width} (height x width) leaves a batch "
                "normalisation one value per channel — expected at least two — set data.batch_size=2, or a larger "
                "augment.crop=[height,width]"
            ) from error

    def validation_step(self, batches: list[Batch], batch_idx: int) -> None:
        for batch in batches:
            self.evaluate(batch)

    test_step = validation_step

    def evaluate(self, batch: Batch) -> None:
        """Predict as the protocol says; add to the metrics and, at one view per picture, to the losses."""
        # Views are resized and padded with 0 after normalisation.
        batch = replace(batch, image=self.model.normalise(batch.image))
        assert batch.label is not None, "an evaluated split has labels"
        output: Output | None = None
        passes: list[Output] = []
        # One view of the whole picture is given the label as it is; windows and mirrored views their part of it.
        whole = self.protocol.single_pass and self.protocol.divisor_mode == "resize"

        def network(image: Tensor, label: Tensor | None = batch.label if whole else None) -> Tensor:
            nonlocal output
            output = self(image, label)
            if self.observers:
                passes.append(output)
            return getattr(output, "oracle") if self.oracle else output.logits  # noqa: B009 (not of every output)

        label = batch.label if self.needs_labels and not whole else None
        logits = infer(network, batch.image, self.protocol, batch.label.shape[-2:], label)
        for metric in measures(self.metrics).values():
            metric.update(logits, batch.label)
        # Windows, mirrored and padded views see other labels: the loss is then that of the picture as it is.
        if output is None or not whole:
            output = self(batch.image, batch.label)
        losses = self.criterion(output, batch, self.global_step)
        for name, value in {"loss": losses.total, **losses.parts}.items():
            measures(self.averages)[name].update(value, len(batch))
        for observe in self.observers:
            observe(Evaluated(batch, logits, output, tuple(passes), self.protocol))

    def on_validation_epoch_start(self) -> None:
        self.results = {}
        for metric in [*measures(self.metrics).values(), *measures(self.averages).values()]:
            metric.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        for metric in measures(self.metrics).values():
            self.results |= metric.compute()
        scalars = {name: float(value) for name, value in self.results.items() if isinstance(value, int | float)}
        scalars |= {name: metric.compute() for name, metric in measures(self.averages).items() if metric.update_called}
        values = {f"{self.stage}/{name}": value for name, value in scalars.items()}
        self.log_dict({**values, "step": float(self.global_step)})

    on_test_epoch_end = on_validation_epoch_end

    @property
    def stage(self) -> str:
        """``val`` or ``test``, the prefix under which values are logged."""
        return "test" if self.trainer.testing else "val"

    def configure_optimizers(self) -> Any:
        assert self.optimisation is not None, "made to be evaluated"
        return self.optimisation(self.model, int(self.trainer.estimated_stepping_batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoints.embed(checkpoint, self.config, self.spec)


def measures(modules: nn.ModuleDict) -> dict[str, Metric]:
    """The metrics in a module dictionary, under their type."""
    return {name: metric for name, metric in modules.items() if isinstance(metric, Metric)}

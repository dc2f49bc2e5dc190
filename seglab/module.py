"""The one LightningModule: step, log, optimise. What is learnt and how it is measured is the task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from seglab import checkpoint as checkpoints
from seglab.callbacks.base import Callback
from seglab.losses.base import Losses
from seglab.sharding import FullySharded
from seglab.tasks.base import Task
from seglab.types import Batch, Evaluated, Output, Results


class Step(NamedTuple):
    """The training batch that was seen last."""

    names: tuple[str, ...]
    losses: Losses


class TrainingModule(L.LightningModule):
    """Trains and evaluates a :class:`Task`.

    Args:
        optimisation: ``(model, total_steps) -> `` what Lightning's ``configure_optimizers`` returns; None to evaluate.
        config: the resolved configuration, which travels in every checkpoint.
        seed: dropout is a function of (seed, batch number, rank), so that a resumed run repeats an uninterrupted one.
    """

    def __init__(
        self,
        task: Task,
        optimisation: Callable[[nn.Module, int], dict[str, Any]] | None,
        config: dict[str, Any],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.task = task
        self.optimisation = optimisation
        self.config = config
        self.seed = seed
        self.last: Step | None = None
        self.results = Results()
        """What the last evaluation found. Callbacks may add to it at its epoch's end."""
        self.observed: frozenset[str] = frozenset()
        """The branches that callbacks look at in an evaluation."""

    def forward(self, image: Tensor) -> Output:
        """Images [B, 3, H, W], uint8 or normalised -> the network's output."""
        output: Output = self.task.model(image)
        return output

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.seed, batch_idx, self.global_rank)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.task.losses(batch, self.global_step)
        self.last = Step(batch.names, losses)
        self.log("train/loss", losses.total.detach(), prog_bar=True)
        values = {f"train/{name}": value for name, value in losses.parts.items()}
        self.log_dict({**values, "step": float(self.global_step + 1)})  # the axis is the optimiser's step, this one
        return losses.total

    def validation_step(self, batches: list[Batch], batch_idx: int) -> list[Evaluated]:  # type: ignore[override]
        return [self.task.evaluate(batch, self.global_step, self.observed) for batch in batches]

    test_step = validation_step  # type: ignore[assignment]

    def on_validation_start(self) -> None:
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.gather(self.task.model)

    on_test_start = on_validation_start

    def on_validation_end(self) -> None:
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.release(self.task.model)

    on_test_end = on_validation_end

    def on_validation_epoch_start(self) -> None:
        self.results = Results(scores=self.task.known_scores())
        self.task.reset()
        trainer: L.Trainer = self.trainer
        callbacks = [each for each in trainer.callbacks if isinstance(each, Callback)]  # type: ignore[attr-defined]
        self.observed = frozenset().union(*(callback.observed(self.task) for callback in callbacks))

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        for metric in self.task.named_metrics().values():
            self.results.add(metric.compute())
        scalars = self.results.numbers | self.task.mean_losses()
        values = {f"{self.stage}/{name}": value for name, value in scalars.items()}
        self.log_dict({**values, "step": float(self.global_step)})

    on_test_epoch_end = on_validation_epoch_end

    @property
    def stage(self) -> str:
        """``val`` or ``test``, the prefix under which values are logged."""
        return "test" if self.trainer.testing else "val"

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            strategy.shard(self.task.model)

    def configure_optimizers(self) -> Any:
        assert self.optimisation is not None, "made to be evaluated"
        steps = int(self.trainer.estimated_stepping_batches)
        assert self.task.criterion is not None, "made to be trained"
        self.task.criterion.training_takes(steps)
        return self.optimisation(self.task.model, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoints.embed(checkpoint, self.config, self.task.spec, self.task.TRAINING_PARTS, self.task.frozen())

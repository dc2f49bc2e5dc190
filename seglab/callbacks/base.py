"""The seam between a run and what looks on at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L

if TYPE_CHECKING:
    from seglab.module import TrainingModule
    from seglab.tasks.base import Task
    from seglab.types import Evaluated


class Callback(L.Callback):
    """A callback that says itself when it is of use, and which branches it looks at."""

    whole_network: ClassVar[bool] = False
    """Whether it needs all of the network in a process, so that it cannot be used where parameters are split."""

    def applies(self, task: Task, stage: str) -> bool:
        """Whether it has anything to do for this task in ``fit`` or ``test``; otherwise it is left out."""
        return True

    def observed(self, task: Task) -> frozenset[str]:
        """The branches that it reads of every pass of an evaluation."""
        return frozenset()


class OfTraining(Callback):
    """A callback that has nothing to do where a trained network is evaluated."""

    def applies(self, task: Task, stage: str) -> bool:
        return stage == "fit"


class EvaluationObserver(Callback):
    """Sees every batch of a validation or a test with what the network said about it, on every rank."""

    def begin(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Before the first batch."""

    def observe(self, seen: Evaluated) -> None:
        """After each batch."""
        raise NotImplementedError

    def end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """After the last batch, on every rank; what is added to ``module.results`` is logged and in metrics.json."""

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.begin(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for seen in outputs:
            self.observe(seen)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.end(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def applies(callback: L.Callback, task: Task, stage: str) -> bool:
    """Whether a callback is of use; one that does not say is."""
    return callback.applies(task, stage) if isinstance(callback, Callback) else True

"""Lightning's training loop, made to leave nothing out when a run goes on."""

from __future__ import annotations

from typing import Self

from lightning.pytorch.loops.fit_loop import _FitLoop

from seglab.callbacks.checkpoints import kept_by


class FitLoop(_FitLoop):
    """Also begins and ends where no step is left, and first makes the validation that a stop prevented.

    A checkpoint is written before a validation, and Lightning goes on behind it. After the last step it would not even
    begin: neither the validation nor what callbacks do when training starts and ends would happen.
    """

    @classmethod
    def of(cls, loop: _FitLoop) -> Self:
        """The same loop with this class's behaviour."""
        made = cls(loop.trainer, loop.min_epochs, loop.max_epochs)
        made.epoch_loop = loop.epoch_loop
        return made

    @property
    def skip(self) -> bool:
        """Whether there is nothing to train on."""
        return self.max_batches == 0 or self.trainer.limit_train_batches == 0

    def on_run_start(self) -> None:
        """Start training, with the validation of the step before if it is still to be made."""
        super().on_run_start()
        if self.owes_validation():
            # As Lightning does between two steps: the stage decides whose values are logged.
            self.trainer.validating = True
            self.epoch_loop.val_loop.restarting = False
            self.epoch_loop.val_loop.run()
            self.trainer.training = True

    def owes_validation(self) -> bool:
        """Whether the steps so far end with a validation that the checkpoint does not know of."""
        trainer = self.trainer
        batches, interval = self.epoch_loop.batch_progress.total.ready, trainer.val_check_batch
        if not batches or not isinstance(interval, int) or batches % interval or not trainer.enable_validation:
            return False
        kept = kept_by(trainer)
        return kept is not None and kept.validated_step != trainer.global_step

"""Nothing non-finite reaches the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from seglab.callbacks.base import OfTraining
from seglab.errors import ConfigError
from seglab.runs import atomic
from seglab.runs.atomic import jsonable
from seglab.sharding import whole

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; the weights are those before the step."""

    exit_code = 1


class BatchRecord(NamedTuple):
    """One batch of the running optimiser step."""

    names: tuple[str, ...]
    loss: Tensor
    parts: dict[str, Tensor]


class NonFinite(OfTraining):
    """Looks at loss and gradient norm before every optimiser step, on every rank, and refuses what is not finite.

    Writes ``nonfinite/step_XXXXXX.json`` (file names, loss terms, gradients) and, when it raises, the weights before
    the step. With fp16 an overflow of the gradients is the loss scaler's business: it is counted, and a warning tells
    when it is frequent.

    Args:
        action: ``raise`` ends the run; ``skip`` leaves the step out.
        skips: how many steps in all may be left out before that, too, is an error.
    """

    def __init__(self, action: Literal["raise", "skip"] = "raise", skips: int = 10) -> None:
        if action not in ("raise", "skip") or skips < 0:
            raise ConfigError(f"callbacks.nonfinite: action={action}, skips={skips} — expected raise or skip, and >= 0")
        self.action = action
        self.skips = skips
        self.skipped = 0
        self.overflows = 0
        self.seen: list[BatchRecord] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        """The steps left out so far."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state["skipped"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.action == "skip" and not self.seen:
            # The forward pass of a bad batch poisons running statistics before anybody can look at the loss.
            floating = (b for b in pl_module.buffers() if b.is_floating_point())
            self.buffers = [(buffer, buffer.clone()) for buffer in floating]

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        step = pl_module.last
        self.seen.append(BatchRecord(step.names, loss.detach(), step.losses.parts))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        seen, self.seen = self.seen, []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad_loss = ~torch.isfinite(torch.stack([s.loss.float() for s in seen])).all()
        bad_gradient = ~torch.isfinite(whole(torch.nn.utils.get_total_norm(gradients))) if gradients else bad_loss
        bad = torch.stack([bad_loss, bad_gradient.to(bad_loss.device)]).float()
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad, reduce_op="sum")
        loss_is_bad, gradient_is_bad = (bool(flag) for flag in bad.tolist())
        if not (loss_is_bad or gradient_is_bad):
            return
        if not loss_is_bad and getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.count_overflow(trainer)
            return
        self.refuse(trainer, pl_module, optimizer, seen)

    def count_overflow(self, trainer: L.Trainer) -> None:
        """The scaler leaves this step out by itself; a few in a thousand are usual."""
        self.overflows += 1
        if self.overflows > 10 and self.overflows > 0.01 * trainer.global_step:
            log.warning(
                "%d of %d steps overflowed in fp16 — prefer trainer.precision=bf16-mixed", self.overflows,
                trainer.global_step + 1,
            )  # fmt: skip

    def refuse(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer, seen: list[BatchRecord]
    ) -> None:
        """Report, then raise or leave the step out.

        Raises:
            NonFiniteError: names the step, the terms or gradients, and the files.
        """
        gradients = {name: whole(p.grad) for name, p in module.named_parameters() if p.grad is not None}
        tensors = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        factor = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1)  # Lightning divides by it
        losses = [float(s.loss) * factor for s in seen]
        what = culprit(seen, tensors, trainer.world_size > 1)
        report = self.report(trainer, optimizer, seen, losses, what, tensors)
        files = ", ".join(name for s in seen for name in s.names[:4])
        shown = ", ".join(f"{value:g}" for value in losses)
        message = f"step {trainer.global_step}: {what} is not finite (loss {shown}; files: {files})"
        if self.action == "raise" or self.skipped >= self.skips:
            trainer.save_checkpoint(report.with_suffix(".ckpt"), weights_only=True)
            raise NonFiniteError(
                f"{message} — the step was not taken, and {report} has the details; try a lower optim.optimizer.lr, "
                "trainer.gradient_clip_val=1, trainer.precision=32-true, or callbacks.nonfinite.action=skip"
            )
        self.skipped += 1
        log.warning("%s — step left out (%d of %d)", message, self.skipped, self.skips)
        self.leave_out(optimizer)

    def report(
        self,
        trainer: L.Trainer,
        optimizer: Optimizer,
        seen: list[BatchRecord],
        losses: list[float],
        what: str,
        tensors: list[str],
    ) -> Path:
        """Write what is known of the step; gives the file."""
        suffix = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        target = Path(trainer.default_root_dir) / "nonfinite" / f"step_{trainer.global_step:06d}{suffix}.json"
        batches = [
            {"names": s.names, "loss": repr(loss), "parts": {k: repr(v.item()) for k, v in s.parts.items()}}
            for s, loss in zip(seen, losses, strict=True)
        ]
        rates = jsonable([group["lr"] for group in optimizer.param_groups])
        about = {"step": trainer.global_step, "culprit": what, "gradients": tensors}
        atomic.write_json(target, {**about, "batches": batches, "learning_rates": rates})
        return target

    def leave_out(self, optimizer: Optimizer) -> None:
        """Put back what the forward pass has changed, and leave the optimiser nothing to do."""
        for buffer, before in self.buffers:
            buffer.copy_(before)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimiser passes over what has no gradient


def culprit(seen: list[BatchRecord], gradients: list[str], several: bool) -> str:
    """What was not finite, as a message names it.

    Args:
        gradients: names of the parameters whose gradient is not finite.
        several: whether other processes take part.
    """
    terms = sorted({name for s in seen for name, value in s.parts.items() if not torch.isfinite(value).all()})
    if terms:
        return f"the loss term {', '.join(terms)}"
    if not all(map(torch.isfinite, (s.loss for s in seen))):
        return "the total loss"
    if gradients:
        return f"the gradient of {gradients[0]}" + (f" and {len(gradients) - 1} more" if len(gradients) > 1 else "")
    return "a batch on another rank" if several else "the norm of the gradients, each of which is finite,"

"""Nothing non-finite reaches the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from seglab.errors import ConfigError
from seglab.runs import atomic
from seglab.runs.atomic import jsonable

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; the weights are those before the step."""

    exit_code = 1


class Seen(NamedTuple):
    """One batch of the running optimiser step."""

    names: tuple[str, ...]
    loss: Tensor
    parts: dict[str, Tensor]


class NonFinite(L.Callback):
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
        self.names: tuple[str, ...] = ()
        self.seen: list[Seen] = []
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
        self.names = tuple(getattr(batch, "names", ()))
        if self.action == "skip" and not self.seen:
            # The forward pass of a bad batch poisons running statistics before anybody can look at the loss.
            floating = (b for b in pl_module.buffers() if b.is_floating_point())
            self.buffers = [(buffer, buffer.clone()) for buffer in floating]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.seen.append(Seen(self.names, loss.detach(), dict(getattr(pl_module, "parts", {}))))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        seen, self.seen = self.seen, []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad_loss = ~torch.isfinite(torch.stack([s.loss.float() for s in seen])).all()
        bad_gradient = ~torch.isfinite(torch.nn.utils.get_total_norm(gradients)) if gradients else bad_loss
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

    def refuse(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer, seen: list[Seen]) -> None:
        """Report, then raise or leave the step out.

        Raises:
            NonFiniteError: names the step, the terms or gradients, and the files.
        """
        step = trainer.global_step
        terms = sorted({name for s in seen for name, value in s.parts.items() if not torch.isfinite(value).all()})
        tensors = [name for name, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        factor = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1)  # Lightning divides by it
        total = [float(s.loss) * factor for s in seen]
        if terms:
            culprit = f"the loss term {', '.join(terms)}"
        elif not all(map(torch.isfinite, (s.loss for s in seen))):
            culprit = "the total loss"
        elif tensors:
            culprit = f"the gradient of {tensors[0]}" + (f" and {len(tensors) - 1} more" if len(tensors) > 1 else "")
        elif trainer.world_size > 1:
            culprit = "a batch on another rank"
        else:
            culprit = "the norm of the gradients, each of which is finite,"
        suffix = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        report = Path(trainer.default_root_dir) / "nonfinite" / f"step_{step:06d}{suffix}.json"
        atomic.write_json(
            report,
            {
                "step": step,
                "culprit": culprit,
                "gradients": tensors,
                "batches": [
                    {"names": s.names, "loss": repr(loss), "parts": {k: repr(v.item()) for k, v in s.parts.items()}}
                    for s, loss in zip(seen, total, strict=True)
                ],
                "learning_rates": jsonable([group["lr"] for group in optimizer.param_groups]),
            },
        )
        files = ", ".join(name for s in seen for name in s.names[:4])
        message = f"step {step}: {culprit} is not finite (loss {', '.join(f'{v:g}' for v in total)}; files: {files})"
        if self.action == "raise" or self.skipped >= self.skips:
            trainer.save_checkpoint(report.with_name(f"step_{step:06d}.ckpt"), weights_only=True)
            raise NonFiniteError(
                f"{message} — the step was not taken, and {report} has the details; try a lower optim.optimizer.lr, "
                "trainer.gradient_clip_val=1, trainer.precision=32-true, or callbacks.nonfinite.action=skip"
            )
        self.skipped += 1
        log.warning("%s — step left out (%d of %d)", message, self.skipped, self.skips)
        for buffer, before in self.buffers:
            buffer.copy_(before)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimiser passes over what has no gradient

"""The Trainer, as ``conf/trainer`` says, with its callbacks and loggers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from seglab import checkpoint, checks
from seglab.build import check_node, instantiate
from seglab.callbacks.base import applies
from seglab.errors import ConfigError
from seglab.loop import FitLoop
from seglab.sharding import FullySharded

if TYPE_CHECKING:
    import lightning as L

    from seglab.tasks.base import Task

Config = Mapping[str, Any]


def build_trainer(
    cfg: Config, run_dir: str, task: Task, stage: str, steps_per_epoch: Callable[[int], int] | None = None
) -> L.Trainer:
    """The Trainer with its loggers and those of its callbacks that apply.

    The training stream has no epochs, so Lightning counts steps only: ``max_epochs`` is turned into steps here.

    Args:
        task: what is trained or evaluated.
        stage: ``fit`` or ``test``.
        steps_per_epoch: batches in one pass over the training split, by number of processes; needed for ``max_epochs``.

    Raises:
        ConfigError: nothing says when training ends, or Lightning refuses a setting.
    """
    quiet()
    check_trainer(cfg["trainer"])
    node, epochs = in_steps(cfg["trainer"])
    named = {name: instantiate(c, f"callbacks.{name}") for name, c in (cfg.get("callbacks") or {}).items() if c}
    loggers = [instantiate(c, f"logger.{name}") for name, c in (cfg.get("logger") or {}).items() if c]
    try:
        trainer: L.Trainer = instantiate(
            {**node, "_partial_": True},
            "trainer",
            default_root_dir=run_dir,
            max_epochs=-1,
            callbacks=[callback for callback in named.values() if applies(callback, task, stage)],
            logger=loggers or False,
            plugins=[checkpoint.AtomicCheckpointIO()],
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,  # no epochs: validation goes by steps
            use_distributed_sampler=False,  # ours repeat and drop nothing
            enable_model_summary=False,
        )
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ConfigError(
            f"the trainer refuses its settings: {error} — see trainer.accelerator, trainer.devices, trainer.precision"
        ) from error
    if isinstance(trainer.strategy, FullySharded):
        refuse_whole_network(named)
    trainer.fit_loop = FitLoop.of(trainer.fit_loop)
    if epochs is not None and steps_per_epoch is not None:
        limit_to(trainer, epochs, steps_per_epoch, node)
    return trainer


def refuse_whole_network(callbacks: Mapping[str, Any]) -> None:
    """Raises ConfigError: a callback that needs all of the network in a process."""
    for name, callback in callbacks.items():
        if getattr(callback, "whole_network", False):
            raise ConfigError(
                f"callbacks.{name} needs the whole network in every process, and trainer=fsdp splits it — use "
                f"trainer=ddp, or leave it out (~callbacks.{name}); what looks into a network can look "
                f"into a checkpoint later: python -m seglab.evaluate callbacks={name}"
            )


def in_steps(trainer: Config) -> tuple[dict[str, Any], int | None]:
    """The settings as Lightning counts them, and the number of epochs, which it is not told.

    Raises:
        ConfigError: nothing says when training ends.
    """
    node = dict(trainer)
    epochs = node.pop("max_epochs", None)
    steps = node.get("max_steps", -1)
    if epochs is None and steps < 0:
        raise ConfigError("no end to training — set trainer.max_steps=N or trainer.max_epochs=N")
    interval = node.pop("val_check_interval", None)
    if interval is not None:  # Lightning counts batches
        node["val_check_interval"] = min(interval, steps if steps > 0 else interval) * accumulated(node)
    if steps > 0 and node.get("log_every_n_steps"):
        node["log_every_n_steps"] = min(node["log_every_n_steps"], steps)
    if node.get("sync_batchnorm") and not uses_gpu(node):
        node["sync_batchnorm"] = False
    return node, epochs


def limit_to(trainer: L.Trainer, epochs: int, steps_per_epoch: Callable[[int], int], node: Config) -> None:
    """End after that many passes over the training split, or after ``max_steps`` where these are fewer."""
    steps = -(-epochs * steps_per_epoch(trainer.world_size) // accumulated(node))
    limit = node.get("max_steps", -1)
    trainer.fit_loop.epoch_loop.max_steps = steps if limit < 0 else min(steps, limit)


def accumulated(node: Config) -> int:
    """Batches of one optimiser step."""
    return int(node.get("accumulate_grad_batches", 1))


def check_trainer(node: Config) -> None:
    """Refuse what cannot be meant, before it is reckoned with.

    Raises:
        ConfigError: names the key.
    """
    check_node(node, "trainer")
    checks.kind("trainer.val_check_interval", node.get("val_check_interval"), int | None)
    least = {"max_epochs": 1, "val_check_interval": 1, "accumulate_grad_batches": 1, "gradient_clip_val": 0}
    for name, low in least.items():
        if node.get(name) is not None:
            checks.within(f"trainer.{name}", node[name], low)
    if node.get("max_steps", -1) < -1 or node.get("max_steps", -1) == 0:
        raise ConfigError(
            f"trainer.max_steps={node['max_steps']} — expected 1 or more, or -1 with trainer.max_epochs=N"
        )


def quiet() -> None:
    """Lightning's greetings and tips are not the user's business; its warnings are."""
    logging.getLogger("lightning").handlers.clear()  # Hydra's handler says everything once already
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # metrics are sums over all processes already


def uses_gpu(trainer: Config) -> bool:
    """Whether the chosen accelerator is a GPU."""
    chosen = trainer.get("accelerator", "auto")
    return chosen in ("gpu", "cuda") or (chosen == "auto" and torch.cuda.is_available())

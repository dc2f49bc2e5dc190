"""Going on with a run: from which checkpoint, and whether it still is the same run.

A resumed run ends with the bits of an uninterrupted one. So what decides what is learnt may not change: it is refused
by name, and ``init_from=`` starts another run from the weights. What may change is listed here, and said in the log.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from seglab import checkpoint
from seglab.checkpoint import Description
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError

log = logging.getLogger(__name__)

SILENT = (
    "run_dir", "resume", "init_from", "overwrite", "allow_nonfinite", "logger", "callbacks", "regularizer",
    "backbone.pretrained", "backbone.weights", "data.num_workers", "data.persistent_workers", "data.pin_memory",
    "data.prefetch_factor",
)  # fmt: skip
"""What a resumed run may change without a word: it does not touch what is learnt or measured.

``regularizer`` is read by interpolations alone: what follows from it stands below ``loss``, ``heads`` and ``decoder``.
"""
ALLOWED = (
    "test", "metrics", "evaluation", "data.root", "data.check", "data.on_corrupt", "data.eval_batch_size",
    "data.splits.val", "data.splits.test", "trainer.max_steps", "trainer.max_epochs", "trainer.val_check_interval",
    "trainer.log_every_n_steps", "trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.accelerator",
    "trainer.strategy", "trainer.deterministic", "trainer.benchmark", "trainer.profiler", "task.compile",
    "task.channels_last",
)  # fmt: skip
"""What it may change and says so: how long it goes on, what is measured, and on what machine it runs."""
GLOBAL_BATCH = ("data.batch_size", "trainer.devices", "trainer.num_nodes")
"""Together they say how many items a step takes from the stream; their product may be dealt otherwise."""
TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")
"""What a checkpoint holds beyond a network, so that training can go on."""


def start(config: Mapping[str, Any], run_dir: Path, module: Any, trainer: Any) -> str | None:
    """The checkpoint that training goes on from, as ``resume=`` says; None for a fresh start.

    Args:
        module: the LightningModule, not trained yet.
        trainer: with its callbacks.

    Raises:
        CheckpointError: unreadable, damaged, or of another run.
    """
    if not config["resume"]:
        return None
    path = find(run_dir) if config["resume"] == "auto" else Path(config["resume"])
    if path is None:
        if (run_dir / "metrics.json").exists():
            raise CheckpointError(
                f"{run_dir} holds results and no checkpoint to go on from — choose another hydra.run.dir, or "
                "overwrite=true without resume= to set it aside"
            )
        return None
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    task, allowed = module.task, config["allow_nonfinite"]
    check(path, module.config, task.spec, task.model, averages, allowed, task.frozen())
    if trainer.is_global_zero:
        adopt(path, run_dir)
    return str(path)


def find(run_dir: str | Path) -> Path | None:
    """The checkpoint that ``resume=auto`` goes on from: the one with most steps among those that are whole.

    Raises:
        CheckpointError: there are checkpoints, and none is whole (starting over would overwrite them).
    """
    found: list[tuple[int, bool, Path]] = []
    broken: list[str] = []
    for path in sorted((Path(run_dir) / "checkpoints").glob("*.ckpt")):
        try:
            found.append((checkpoint.describe(path).step, path.stem == "last", path))
        except CheckpointError as error:
            broken.append(str(error))
    for step, _, path in sorted(found, reverse=True):
        try:
            read(path)
        except CheckpointError as error:
            broken.append(str(error))
            continue
        for message in broken:
            log.warning("%s — falling back to %s (step %d)", message, path, step)
        return path
    if broken:
        raise CheckpointError(f"{broken[0]} — no other checkpoint to fall back to; start over with overwrite=true")
    return None


def read(path: str | Path, allow_nonfinite: bool = False) -> tuple[dict[str, Any], Description]:
    """A whole checkpoint, verified, and its description.

    Raises:
        CheckpointError: unreadable or damaged, or nothing that training could go on from.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or path.is_dir():
        raise CheckpointError(
            f"{path} holds a network and no state of a training — expected a checkpoint such as checkpoints/last.ckpt "
            f"of a run; init_from={path} starts a run from the network"
        )
    content = checkpoint.read(path)
    description = checkpoint.described(content, path)
    stored = content[checkpoint.KEY]
    checkpoint.verify(checkpoint.network_tensors(content), stored, path, allow_nonfinite)
    missing = [key for key in TRAINING if key not in content] + (
        ["optimizer_states"] if content.get("optimizer_states") == [] else []
    )
    if missing:
        raise CheckpointError(
            f"{path} has no {', '.join(missing)} — expected a checkpoint that training wrote to go on from; "
            f"init_from={path} starts a new run from its weights"
        )
    if (stored.get("checksum") or {}).get("training") not in (
        None,
        checkpoint.rest(content, description.training_parts),
    ):
        raise CheckpointError(
            f"{path} is damaged: the state of its optimiser is not what was written (the checksum differs) — use "
            f"another checkpoint; init_from={path} starts a new run from its weights, which are whole"
        )
    return content, description


def check(
    path: Path,
    config: Mapping[str, Any],
    spec: DatasetSpec,
    model: nn.Module,
    averages: bool,
    allow_nonfinite: bool,
    frozen: Mapping[str, str] | None = None,
) -> list[str]:
    """What a resumed run changes, one line each, which are also logged.

    Args:
        model: the network to go on with.
        averages: whether weights are averaged from here on.
        frozen: checksums of the networks that loss terms learn from, by their keys.

    Raises:
        CheckpointError: unreadable, damaged, or of another run.
    """
    content, old = read(path, allow_nonfinite)
    instead = f"init_from={path} starts a new run from its weights"
    before = content[checkpoint.KEY].get("frozen") or {}
    for key, found in (frozen or {}).items():
        if before.get(key, found) != found:
            raise CheckpointError(
                f"{path} was taught by another network: the weights behind {key}.path are not those that it learnt "
                f"from (the checksum differs) — set it back; {instead}"
            )
    # Of a network that only teaches the weights count, not the place of the file.
    lines = compare(old, config, spec, tuple(f"{key}.path" for key in frozen or {}))
    if ("averaging_state" in content) != averages:
        before, now = ("with", "without") if "averaging_state" in content else ("without", "with")
        raise CheckpointError(
            f"{path} was trained {before} averaging of weights; now it is {now} — expected the same callbacks "
            f"(callbacks=ema switches it on); {instead}"
        )
    checkpoint.compare(model.state_dict(), checkpoint.network_tensors(content), path)
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    stored = sum(len(group["params"]) for state in content["optimizer_states"] for group in state["param_groups"])
    if trained != stored:
        raise CheckpointError(
            f"{path}: its optimiser trained {stored} tensors; now {trained} are trained — expected the same network "
            f"and losses; {instead}"
        )
    return lines


def compare(old: Description, config: Mapping[str, Any], spec: DatasetSpec, silent: tuple[str, ...] = ()) -> list[str]:
    """The lines of :func:`check` that follow from the configurations; ``silent`` keys may change without a word.

    Raises:
        CheckpointError: other classes, network, data, losses or optimisation: that is another run.
    """
    instead = f"init_from={old.path} starts a new run from what fits"
    if old.spec.classes != spec.classes:
        raise CheckpointError(
            f"{old.path} was trained on {old.spec.num_classes} classes ({old.spec.name}); now there are "
            f"{spec.num_classes} ({spec.name}) — a run is resumed with its own classes; {instead}"
        )
    new = checkpoint.plain(config)
    allowed = ALLOWED + (GLOBAL_BATCH if global_batch(old.config) == global_batch(new) else ())
    lines, refused = [], []
    for key, before, after in difference(old.config, new):
        if is_below(key, allowed):
            lines.append(f"{key}: {before!r} -> {after!r}")
        elif not is_below(key, SILENT + silent):
            refused.append(f"{key}: {before!r} -> {after!r}")
    if refused:
        raise CheckpointError(
            f"{old.path} cannot be resumed as another training: {'; '.join(refused)} — set it back, or {instead}"
        )
    for line in lines:
        log.info("resumed with a change: %s", line)
    return lines


def global_batch(config: Mapping[str, Any]) -> Any:
    """Items that one step takes from the stream; where devices are not counted, what is said of them instead."""
    data, trainer = config["data"], config["trainer"]
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else None
    return data["batch_size"] * count * nodes if count else (data["batch_size"], devices, nodes)


def is_below(key: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted key lies at or below one of the prefixes."""
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def difference(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both; absent is None."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from difference(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after


def adopt(path: Path, run_dir: Path) -> None:
    """Bring along what belongs to a checkpoint of another run folder: its logged rows and its best weights so far."""
    source = path.resolve().parent.parent
    if path.resolve().parent.name != "checkpoints" or source == run_dir.resolve():
        return
    for name in ("metrics.csv", "checkpoints/best.ckpt"):
        if (source / name).is_file():
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, run_dir / name)

"""The only place where configuration becomes objects.

What follows from a choice (number of classes, channels, strides) is handed on here and stands in no YAML.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import torch
from hydra.errors import InstantiationException
from torch import nn

from seglab import __version__, checkpoint
from seglab.classifiers.base import Classifier
from seglab.errors import CheckpointError, ConfigError, UserError
from seglab.losses.base import Criterion
from seglab.segmenter import Segmenter

if TYPE_CHECKING:
    import lightning as L

    from seglab.data.datamodule import DataModule
    from seglab.data.spec import DatasetSpec
    from seglab.module import SegmentationModule

Config = Mapping[str, Any]

NETWORK_TARGETS = ("seglab.backbones.", "seglab.decoders.", "seglab.classifiers.", "torch.nn.")
"""What a network's configuration may name when it comes with a checkpoint: never more than modules."""


def instantiate(node: Any, key: str, allowed: Sequence[str] | None = None, **late: Any) -> Any:
    """Build the object that a configuration node names.

    Args:
        node: a mapping with ``_target_``.
        key: where it stands, for error messages.
        allowed: for a node from a file, the modules whose classes it may name (see :func:`check_targets`).
        late: values known only now; passed to a ``_partial_`` target.

    Raises:
        ConfigError: an unknown target or parameter.
        CheckpointError: a target that ``allowed`` does not cover.
    """
    if allowed is not None:
        check_targets(node, key, allowed)
    try:
        made = hydra.utils.instantiate(node, _convert_="all")
        return made(**late) if late else made
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, TypeError | ImportError | AttributeError | None):
            raise ConfigError(f"cannot build {key}: {explain(node, key, error)}") from error
        raise cause from error
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(f"cannot build {key}: {explain(node, key, error)}") from error


def check_targets(node: Any, key: str, allowed: Sequence[str]) -> None:
    """Refuse a configuration, from a file, that names anything but classes and functions of the allowed modules.

    Raises:
        CheckpointError: a target elsewhere, or one of another module reached through an allowed one.
    """
    for target in targets(node):
        try:
            made = hydra.utils.get_object(target) if target.startswith(tuple(allowed)) else None
        except (ImportError, ValueError):
            raise CheckpointError(
                f"{key} names {target}, which this seglab does not have — expected the version that wrote it, or newer"
            ) from None
        # A module also gives access to what it imports: where the thing was defined decides.
        home = getattr(made, "__module__", None) or ""
        if not (inspect.isclass(made) or inspect.isroutine(made)) or not f"{home}.".startswith(tuple(allowed)):
            raise CheckpointError(
                f"{key} names {target}, which is none of {', '.join(allowed)}: not built from a file — if the "
                "checkpoint is your own, or you have read its configuration, set trust=true"
            )


def targets(node: Any) -> list[str]:
    """Every ``_target_`` in a configuration, however deep."""
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    if isinstance(node, list | tuple):
        return [target for value in node for target in targets(value)]
    return []


def explain(node: Config, key: str, error: Exception) -> str:
    """The reason a target was refused, with the nearest parameter where one was misspelt."""
    try:
        known = list(inspect.signature(hydra.utils.get_object(node["_target_"])).parameters)
    except (ImportError, ValueError, KeyError, TypeError, InstantiationException):
        return reason(error)
    unknown = [name for name in node if not name.startswith("_") and name not in known]
    if not unknown:
        return reason(error)
    close = difflib.get_close_matches(unknown[0], known, n=1)
    wanted = f"did you mean {key}.{close[0]}?" if close else f"expected one of {', '.join(known)}"
    return f"{node['_target_']} has no parameter '{unknown[0]}' — {wanted}"


def reason(error: Exception) -> str:
    """What went wrong innermost, in one line."""
    return f"{error} {error.__cause__ or ''}".strip().replace("\n", " ")


def build_data(cfg: Config) -> DataModule:
    """The data module, with its augmentation."""
    augment = instantiate(cfg["augment"], "augment")
    return instantiate({**cfg["data"], "_partial_": True}, "data", augment=augment, seed=cfg["seed"])


def build_model(cfg: Config, num_classes: int) -> Segmenter:
    """Backbone, decoder, classifier and auxiliary head, each told what the previous one publishes."""
    backbone = instantiate(cfg["backbone"], "backbone")
    maps: dict[str, Any] = {"channels": backbone.channels, "strides": backbone.strides, "num_classes": num_classes}
    decoder = instantiate(cfg["decoder"], "decoder", **maps)
    width = {"in_channels": decoder.out_channels, "num_classes": num_classes}
    classifier = instantiate(cfg["classifier"], "classifier", **width)
    auxiliary = instantiate(cfg["auxiliary"], "auxiliary", **maps) if cfg.get("auxiliary") else None
    return Segmenter(backbone, decoder, classifier, auxiliary)


def load(path: str | Path, device: Any = "cpu", trust: bool = False) -> Segmenter:
    """A trained network in evaluation mode, from a checkpoint, an exported folder or a run folder.

    It carries ``spec`` (classes and palette) and ``description``.

    Args:
        path: the file or folder; of a run folder the best checkpoint.
        device: where the network is put.
        trust: build whatever the file names, for networks with classes of your own. Otherwise only parts of networks
            that seglab and torch define are built.

    Raises:
        CheckpointError: unreadable, naming other things than parts of networks, or not fitting this seglab's.
    """
    tensors, description = checkpoint.open_file(path)
    config = checkpoint.untrained(description.config)
    for part in () if trust else ("backbone", "decoder", "classifier", "auxiliary"):
        check_targets(config.get(part), f"{description.path}: its {part}", NETWORK_TARGETS)
    try:
        model = build_model(config, description.spec.num_classes)
    except ConfigError as error:
        raise CheckpointError(
            f"{description.path} (of seglab {description.version}) cannot be built with seglab {__version__}: {error}"
        ) from error
    checkpoint.fill(model, tensors, description.path)
    model.spec = description.spec
    model.description = description
    return model.to(device).eval()


def build_criterion(cfg: Config) -> Criterion:
    """The named loss terms; nulls are terms that were taken out."""
    terms = {name: node for name, node in cfg["loss"].items() if node is not None}
    return Criterion({name: instantiate(node, f"loss.{name}") for name, node in terms.items()})


def build_metrics(cfg: Config, num_classes: int) -> dict[str, Any]:
    """The named metrics, each told the number of classes."""
    return {
        name: instantiate(node, f"metrics.{name}", num_classes=num_classes)
        for name, node in cfg["metrics"].items()
        if node is not None
    }


def build_module(cfg: Config, spec: DatasetSpec, oracle: bool = False) -> SegmentationModule:
    """The whole task: network, criterion, metrics, optimisation."""
    # An auxiliary head whose loss is off would be trained by nothing.
    if not cfg["loss"].get("aux") or cfg["loss"]["aux"].get("weight") == 0:
        cfg = {**cfg, "auxiliary": None}
    torch.manual_seed(cfg["seed"])
    model = build_model(cfg, spec.num_classes)
    criterion = build_criterion(cfg)
    criterion.check(model.classifier.Output.branches())
    freeze_unreached(model.classifier, criterion)
    return instantiate(
        {**cfg["task"], "_partial_": True},
        "task",
        model=model,
        criterion=criterion,
        metrics=build_metrics(cfg, spec.num_classes),
        optimisation=instantiate(cfg["optim"], "optim"),
        protocol=instantiate(cfg["evaluation"], "evaluation"),
        spec=spec,
        config=cfg,
        seed=cfg["seed"],
        oracle=oracle,
    )


def freeze_unreached(classifier: Classifier, criterion: Criterion) -> None:
    """Freeze the classifier's parameters that no active loss term reaches.

    A ground-truth branch without its losses would otherwise be carried, decayed and, under DDP, fatal. One backward
    pass on a small random feature finds them, so a new classifier needs no table of what feeds what.
    """
    published = classifier.Output.branches() - {"auxiliary"}
    from seglab.types import Batch

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        feature = torch.randn(2, classifier.in_channels, 16, 16, requires_grad=True)
        label = torch.randint(classifier.num_classes, (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        batch = Batch(feature, label, ("", ""))
        training = classifier.training
        output = classifier.eval()(feature, label)
        values = [term(output, batch) for _, term in criterion.named() if set(term.branches) <= published]
        if values:
            torch.stack(values).sum().backward()
        classifier.train(training)
    for parameter in classifier.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def build_trainer(cfg: Config, run_dir: str, steps_per_epoch: Callable[[int], int] | None = None) -> L.Trainer:
    """The Trainer with its callbacks and loggers.

    The training stream has no epochs, so Lightning counts steps only: ``max_epochs`` is turned into steps here.

    Args:
        steps_per_epoch: batches in one pass over the training split, by number of processes; needed for ``max_epochs``.

    Raises:
        ConfigError: nothing says when training ends, or Lightning refuses a setting.
    """
    quiet()
    node = dict(cfg["trainer"])
    epochs = node.pop("max_epochs", None)
    if epochs is None and node.get("max_steps", -1) < 0:
        raise ConfigError("no end to training — set trainer.max_steps=N or trainer.max_epochs=N")
    accumulate = node.get("accumulate_grad_batches", 1)
    interval = node.pop("val_check_interval", None)
    if interval is not None:
        limit = node["max_steps"] if node.get("max_steps", -1) > 0 else interval
        node["val_check_interval"] = min(interval, limit) * accumulate  # Lightning counts batches
    if node.get("max_steps", -1) > 0 and node.get("log_every_n_steps"):
        node["log_every_n_steps"] = min(node["log_every_n_steps"], node["max_steps"])
    if node.get("sync_batchnorm") and not uses_gpu(node):
        node["sync_batchnorm"] = False
    callbacks = [instantiate(c, f"callbacks.{name}") for name, c in (cfg.get("callbacks") or {}).items() if c]
    loggers = [instantiate(c, f"logger.{name}") for name, c in (cfg.get("logger") or {}).items() if c]
    try:
        trainer: L.Trainer = instantiate(
            {**node, "_partial_": True},
            "trainer",
            default_root_dir=run_dir,
            max_epochs=-1,
            callbacks=callbacks,
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
    if epochs is not None and steps_per_epoch is not None:
        steps = -(-epochs * steps_per_epoch(trainer.world_size) // accumulate)
        limit = node.get("max_steps", -1)
        trainer.fit_loop.epoch_loop.max_steps = steps if limit < 0 else min(steps, limit)
    return trainer


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


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: in all, and trained."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"parameters": sum(n for n, _ in counts), "trained": sum(n for n, trained in counts if trained)}

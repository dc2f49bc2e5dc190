"""The only place where configuration becomes objects.

What follows from a choice (number of classes, channels, strides) is handed on here and stands in no YAML.
"""

from __future__ import annotations

import inspect
import logging
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from seglab import checkpoint, checks, formats, trust
from seglab.errors import CheckpointError, ConfigError, UserError
from seglab.loop import FitLoop
from seglab.losses.base import Criterion
from seglab.segmenter import FEATURE, Segmenter
from seglab.version import __version__

if TYPE_CHECKING:
    import lightning as L

    from seglab.data.datamodule import DataModule
    from seglab.data.spec import DatasetSpec
    from seglab.module import SegmentationModule
    from seglab.types import Batch

Config = Mapping[str, Any]


MISUSE = (
    InstantiationException, OmegaConfBaseException, TypeError, ValueError, ArithmeticError, LookupError, AssertionError,
    RuntimeError, ImportError, AttributeError,
)  # fmt: skip
"""What Hydra and constructors raise at values that they cannot build with."""


def instantiate(node: Any, key: str, **late: Any) -> Any:
    """Build the object that a configuration node names. Whatever was to be resolved in it has been: nothing is here.

    Args:
        node: a mapping with ``_target_``.
        key: where it stands, for error messages.
        late: values known only now; passed to a ``_partial_`` target.

    Raises:
        ConfigError: no such node, an unknown target or parameter, a value of a wrong kind or out of range.
    """
    for place, text in trust.texts(node, key):
        if "${" in text:  # Hydra would resolve it once more
            raise ConfigError(f"{place}={text} — expected a value; an interpolation is resolved when it is composed")
    check_node(node, key)
    try:
        made = hydra.utils.instantiate(node, _convert_="all")
        return made(**late) if late else made
    except MISUSE as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, torch.OutOfMemoryError) or not isinstance(cause, MISUSE):
            raise cause from error
        raise ConfigError(f"cannot build {key} ({node['_target_']}): {reason(cause)}") from error


def check_node(node: Any, key: str) -> None:
    """Refuse what is no object's node, and in it and the nodes below parameters that do not exist and wrong values.

    Raises:
        ConfigError: names the key, and the nearest one where it is misspelt.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        shown = f"a mapping without _target_ ({', '.join(map(str, node))})" if isinstance(node, Mapping) else repr(node)
        raise ConfigError(f"{key} is {shown} — expected the node of an object: {key}={{_target_: package.Class, …}}")
    try:
        target = pkgutil.resolve_name(node["_target_"])
        parameters = dict(inspect.signature(target).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        parameters = {}  # Hydra says which part of the name is wrong, and some built-in classes have no signature
    if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in node:
            if not name.startswith("_") and name not in parameters:
                below = [each for each in checks.dotted(node) if not f"{each}.".startswith(f"{name}.")]
                close = checks.nearest(name, [*parameters, *below])
                wanted = f"did you mean {key}.{close}?" if close else f"expected one of {', '.join(parameters)}"
                raise ConfigError(f"{key}: {node['_target_']} has no parameter '{name}' — {wanted}")
    if parameters:
        checks.kinds(target, node, key)
    for name, child in node.items():
        for each in child if isinstance(child, list) else [child]:
            if isinstance(each, Mapping) and "_target_" in each:
                check_node(each, f"{key}.{name}")


def reason(error: BaseException) -> str:
    """What went wrong innermost, in one line."""
    return f"{error} {error.__cause__ or ''}".strip().replace("\n", " ") or type(error).__name__


def build_data(cfg: Config) -> DataModule:
    """The data module, with its augmentation, which is told the colour to pad with."""
    cfg = formats.own_normalize(cfg)
    fill = instantiate(cfg["normalize"], "normalize").fill
    augment = instantiate({"fill": list(fill), **cfg["augment"]}, "augment")
    return instantiate({**cfg["data"], "_partial_": True}, "data", augment=augment, seed=cfg["seed"])


def build_model(cfg: Config, num_classes: int, criterion: Criterion | None = None) -> Segmenter:
    """Normalisation, backbone, decoder, classifier and heads, each told what the previous ones publish.

    Args:
        criterion: whose terms are to be computed: a head is built iff one of them reads it. None: the deployed network,
            without heads.

    Raises:
        ConfigError: a part that cannot be built, a term that reads what no part publishes.
    """
    normalise = instantiate(formats.own_normalize(cfg)["normalize"], "normalize")
    backbone = instantiate(cfg["backbone"], "backbone")
    maps: dict[str, Any] = {"channels": backbone.channels, "strides": backbone.strides, "num_classes": num_classes}
    decoder = instantiate(cfg["decoder"], "decoder", **maps)
    width = {"in_channels": decoder.out_channels, "num_classes": num_classes}
    classifier = instantiate(cfg["classifier"], "classifier", **width)
    if criterion is None:
        return Segmenter(backbone, decoder, classifier, normalise=normalise)
    features = {f"backbone.{i}": pair for i, pair in enumerate(zip(backbone.channels, backbone.strides, strict=True))}
    features |= {FEATURE: (decoder.out_channels, decoder.stride), **decoder.branches}
    channels, strides = ({name: pair[i] for name, pair in features.items()} for i in (0, 1))
    heads = {}
    for name, node in (cfg.get("heads") or {}).items():
        if node is None:
            continue
        check_node(node, f"heads.{name}")  # also where no term reads it
        if outputs := criterion.wanted_of(name, num_classes):
            heads[name] = instantiate(node, f"heads.{name}", channels=channels, strides=strides, outputs=outputs)
    model = Segmenter(backbone, decoder, classifier, heads, normalise)
    criterion.check(model.branches)
    return model


def load(path: str | Path, device: Any = "cpu", trust: bool = False, allow_nonfinite: bool = False) -> Segmenter:
    """A trained network in evaluation mode, from a checkpoint, an exported folder or a run folder.

    It carries ``spec`` (classes and palette) and ``description``. Heads, which only train, are left out.

    Args:
        path: the file or folder; of a run folder the best checkpoint.
        device: where the network is put.
        trust: build whatever the file names, for networks with classes of your own. Otherwise only parts of networks
            that seglab and torch define are built.
        allow_nonfinite: take weights that are NaN or infinite.

    Raises:
        CheckpointError: unreadable, damaged, naming other things than parts of networks, or not fitting this seglab's.
    """
    tensors, description = checkpoint.open_file(path, allow_nonfinite=allow_nonfinite)
    return network(tensors, description, trust).to(device).eval()


def network(
    tensors: Mapping[str, Tensor],
    description: checkpoint.Description,
    trusted: bool,
    criterion: Criterion | None = None,
) -> Segmenter:
    """The network that a file describes, with its tensors.

    Args:
        criterion: with the heads that its terms read, as far as the file has them; None leaves the heads out.

    Raises:
        CheckpointError: naming other things than parts of networks, or not fitting this seglab's.
    """
    config = trust.without_weights(description.config)
    if not trusted:
        trust.check(config, trust.NETWORK, str(description.path))
    with of_file(description):
        model = build_model(config, description.spec.num_classes, criterion)
    own = model.state_dict().keys()
    used = {name: tensors[name] for name in tensors if name in own or not checkpoint.is_training_only(name)}
    checkpoint.fill(model, used, description.path)
    model.spec = description.spec
    model.description = description
    return model


@contextmanager
def of_file(description: checkpoint.Description) -> Iterator[None]:
    """What cannot be built from a file's configuration is the file's fault, not that of a key that was typed.

    Raises:
        CheckpointError: in place of a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(
            f"{description.path} (of seglab {description.version}) cannot be built with seglab {__version__}: {error}"
        ) from error


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


def build_module(
    cfg: Config,
    spec: DatasetSpec,
    oracle: bool = False,
    model: Segmenter | None = None,
    criterion: Criterion | None = None,
    probe: Batch | None = None,
) -> SegmentationModule:
    """The whole task: network and criterion (unless given), metrics, optimisation (null: none, to evaluate).

    Args:
        probe: a batch to be trained on; what no active term reaches with it is frozen.
    """
    if criterion is None:
        criterion = build_criterion(cfg)
    if model is None:
        torch.manual_seed(cfg["seed"])
        model = build_model(cfg, spec.num_classes, criterion)
    if probe is not None:
        freeze_unreached(model, criterion, probe)
    return instantiate(
        {**cfg["task"], "_partial_": True},
        "task",
        model=model,
        criterion=criterion,
        metrics=build_metrics(cfg, spec.num_classes),
        optimisation=instantiate(cfg["optim"], "optim") if cfg["optim"] is not None else None,
        protocol=instantiate(cfg["evaluation"], "evaluation"),
        spec=spec,
        config=cfg,
        seed=cfg["seed"],
        oracle=oracle,
    )


PROBE = 64
"""Pixels along the sides of the images that tell which parameters are trained."""


def freeze_unreached(model: Segmenter, criterion: Criterion, batch: Batch) -> None:
    """Freeze the parameters that no active loss term reaches: idle parts of backbone, decoder, classifier, heads.

    They would be carried, decayed and, under DDP, fatal. One backward pass over a batch finds them, so that no part
    needs a table of what feeds what; random state and buffers are as before.

    Args:
        batch: of the training data, the same on every process. A corner of it is enough, except for a backbone that
            takes images of one size only.
    """
    whole = getattr(model.backbone, "fixed_size", None) is not None
    small = batch if whole else batch.map(lambda value: value[..., :PROBE, :PROBE])
    wanted = criterion.branches
    target = small.label if wanted & model.classifier.Output.label_branches() else None
    training = model.training
    devices = [small.image.device] if small.image.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        losses = criterion(model.eval()(small.image, target, wanted=wanted), small)
        losses.total.backward()
    model.train(training)
    for parameter in model.parameters():
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
    check_trainer(node)
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
    trainer.fit_loop = FitLoop.of(trainer.fit_loop)
    if epochs is not None and steps_per_epoch is not None:
        steps = -(-epochs * steps_per_epoch(trainer.world_size) // accumulate)
        limit = node.get("max_steps", -1)
        trainer.fit_loop.epoch_loop.max_steps = steps if limit < 0 else min(steps, limit)
    return trainer


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


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: of the deployed network, and trained ones (heads included)."""
    named = list(model.named_parameters())
    return {
        "parameters": sum(p.numel() for name, p in named if not checkpoint.is_training_only(name)),
        "trained": sum(p.numel() for _, p in named if p.requires_grad),
    }

"""The only place where configuration becomes objects.

What follows from a choice (number of classes, channels, strides) is handed on here and stands in no YAML.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

from seglab import checks, options, trust
from seglab.checkpoint import is_of_parts
from seglab.errors import ConfigError, UserError
from seglab.losses.base import Criterion
from seglab.metrics.base import Metric
from seglab.tasks.base import Task

if TYPE_CHECKING:
    from seglab.data.corruption import Corruption
    from seglab.data.datamodule import DataModule
    from seglab.data.spec import DatasetSpec
    from seglab.heads.base import Head
    from seglab.module import TrainingModule
    from seglab.predictors.refine import Refinement
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


def build_data(cfg: Config, needs: Collection[str] = ("label",)) -> DataModule:
    """The data module, with its augmentation; ``needs`` are the fields of a batch that the task reads."""
    fill = instantiate(cfg["normalize"], "normalize").fill  # what training pads with: nearly 0 once normalised
    augment = instantiate({"fill": list(fill), **cfg["augment"]}, "augment")
    return instantiate({**cfg["data"], "_partial_": True}, "data", augment=augment, seed=cfg["seed"], needs=needs)


def compares_frames(cfg: Config) -> bool:
    """Whether a metric compares consecutive frames of videos, so that evaluation has to deal whole sequences."""
    return any(metric_class(node, name).in_sequences for name, node in named(cfg["metrics"]))


def named(nodes: Config | None) -> list[tuple[str, Config]]:
    """The nodes of a group by name, without those that were taken out."""
    return [(name, node) for name, node in (nodes or {}).items() if node is not None]


def metric_class(node: Any, name: str) -> type[Metric]:
    """The class of a metric.

    Raises:
        ConfigError: there is none.
    """
    check_node(node, f"metrics.{name}")
    try:
        found = pkgutil.resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot build metrics.{name} ({node['_target_']}): {reason(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, Metric)):
        raise ConfigError(f"metrics.{name}._target_={node['_target_']} — expected a class derived from Metric")
    return found


def task_class(cfg: Config) -> type[Task]:
    """The task that a configuration is of.

    Raises:
        ConfigError: there is none.
    """
    node = cfg.get("task")
    check_node(node, "task")
    target = node["_target_"]  # type: ignore[index]
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"task._target_={target} — expected a class that can be imported ({reason(error)})"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, Task)):
        raise ConfigError(
            f"task._target_={target} — expected a class derived from seglab.tasks.Task, as in task=semantic"
        )
    return found


class Maker:
    """What a task builds its network with: ``make("backbone")``, ``make("decoder", channels=…)``, ``make.heads(…)``.

    Args:
        cfg: the nodes.
        num_classes: K.
        criterion: whose terms are to be computed: a head is built iff one of them reads it. None: the deployed network,
            without heads.
    """

    def __init__(self, cfg: Config, num_classes: int, criterion: Criterion | None) -> None:
        self.cfg = cfg
        self.num_classes = num_classes
        self.criterion = criterion

    def __call__(self, part: str, **late: Any) -> Any:
        """The object of a node, with the values that are known only now.

        Raises:
            ConfigError: no such node, or it cannot be built.
        """
        return instantiate(self.cfg.get(part), part, **late)

    def heads(self, features: Mapping[str, tuple[int, int]]) -> dict[str, Head]:
        """The heads that an active loss term reads; ``features`` gives (channels, stride) of what they may read.

        Raises:
            ConfigError: a head that cannot be built, also where no term reads it.
        """
        if self.criterion is None:
            return {}
        channels, strides = ({name: pair[i] for name, pair in features.items()} for i in (0, 1))
        found = {}
        for name, node in (self.cfg.get("heads") or {}).items():
            if node is None:
                continue
            check_node(node, f"heads.{name}")
            if outputs := self.criterion.wanted_of(name, self.num_classes):
                late = {"channels": channels, "strides": strides, "outputs": outputs}
                found[name] = instantiate(node, f"heads.{name}", **late)
        return found


def build_task(
    cfg: Config,
    spec: DatasetSpec,
    criterion: Criterion | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Task:
    """The task with its network; initial weights depend on ``seed`` alone, and the global generator is as before.

    Args:
        spec: the classes.
        criterion: the loss terms, which say what heads there are; None: the deployed network.
        metrics: of an evaluation.

    Raises:
        ConfigError: a part that cannot be built, a term that reads what no part publishes.
    """
    kind = task_class(cfg)
    with torch.random.fork_rng():
        torch.manual_seed(cfg.get("seed", 0))
        model = kind.assemble(Maker(cfg, spec.num_classes, criterion))
    if criterion is not None:
        criterion.check(kind.published(model), spec.num_classes)
    for name, metric in (metrics or {}).items():
        compared = kind.NEEDS if kind.COMPARED is None else kind.COMPARED
        if lacking := sorted(metric.needs - compared):
            raise ConfigError(
                f"metrics.{name} compares with the {lacking[0]} of a batch; {kind.__name__} is about "
                f"{', '.join(sorted(compared))} — choose other metrics= or leave it out with metrics.{name}=null"
            )
    return instantiate(
        {**cfg["task"], "_partial_": True},
        "task",
        model=model,
        criterion=criterion,
        metrics=metrics or {},
        protocol=instantiate(cfg["evaluation"], "evaluation"),
        spec=spec,
    )


def build_training(cfg: Config, spec: DatasetSpec, probe: Batch | None = None) -> TrainingModule:
    """The task with its loss terms and metrics, in the module that trains it.

    Args:
        probe: a batch to be trained on; what no active term reaches with it is frozen.
    """
    task = build_task(cfg, spec, build_criterion(cfg), build_metrics(cfg, spec.num_classes))
    if probe is not None:
        freeze_unreached(task, probe)
    return build_module(cfg, task)


def build_module(cfg: Config, task: Task) -> TrainingModule:
    """The LightningModule of a task; without an optimiser (``optim`` is null) it evaluates only."""
    from seglab.module import TrainingModule

    optimisation = instantiate(cfg["optim"], "optim") if cfg["optim"] is not None else None
    return TrainingModule(task, optimisation, dict(cfg), cfg["seed"])


def build_criterion(cfg: Config) -> Criterion:
    """The named loss terms; nulls are terms that were taken out."""
    terms = {name: node for name, node in cfg["loss"].items() if node is not None}
    return Criterion({name: instantiate(node, f"loss.{name}") for name, node in terms.items()})


def evaluated_terms(nodes: Config, where: str | None) -> dict[str, Any]:
    """A file's nodes of loss terms that an evaluation computes: all but those that are for training only.

    Args:
        where: the file, whose terms may be seglab's alone; None: a file that is trusted.

    Raises:
        CheckpointError: a term that is none of seglab's.
    """
    found = {}
    for name, node in nodes.items():
        if node is None:
            continue
        if where is not None:
            trust.check({"loss": {"_target_": node["_target_"]}}, ["loss"], where)
        if getattr(pkgutil.resolve_name(node["_target_"]), "training_only", False):
            continue
        if where is not None:
            trust.check({"loss": node}, ["loss"], where)
        found[name] = node
    return found


def build_metrics(cfg: Config, num_classes: int) -> dict[str, Any]:
    """The named metrics, each told the number of classes."""
    return {name: instantiate(node, f"metrics.{name}", num_classes=num_classes) for name, node in named(cfg["metrics"])}


def build_refinement(node: Config) -> Refinement | None:
    """What ``predictor=`` makes of the frames of videos; None where every image is by itself."""
    return None if node["refine"] is None else instantiate(node["refine"], "predictor.refine")


def build_corruption(node: Config | None) -> Corruption | None:
    """What ``corruption=`` does to the images of an evaluation; None where it does nothing.

    Raises:
        ConfigError: an unknown key or severity, a transform that cannot be built or is not of pixel values alone.
    """
    if node is None:
        return None
    from seglab.data.corruption import Corruption, at_severity  # imports what prediction does without

    checks.known_keys(node, options.CORRUPTION)
    for name, hint in options.CORRUPTION.items():
        checks.kind(f"corruption.{name}", node.get(name), hint)
    seed = int(checks.within("corruption.seed", node["seed"], 0, options.LARGEST_SEED))
    parameters = at_severity(node["transform"] or {}, node["levels"], node["severity"])
    if not parameters:
        return None
    transform = instantiate(parameters, "corruption.transform")
    return Corruption(transform, parameters, node["name"], node["severity"], seed)


PROBE = 64
"""Pixels along the sides of images on which something is tried out."""


def freeze_unreached(task: Task, batch: Batch) -> None:
    """Freeze the parameters that no active loss term reaches: idle parts of backbone, decoder, classifier, heads.

    They would be carried, decayed and, under DDP, fatal. One backward pass over a batch finds them, so that no part
    needs a table of what feeds what; random state and buffers are as before.

    Args:
        batch: of the training data, the same on every process.
    """
    small = corner(task, batch)
    training = task.training
    devices = [small.image.device] if small.image.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        task.eval().losses(small, 0).total.backward()
    task.train(training)
    for parameter in task.model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def corner(task: Task, batch: Batch) -> Batch:
    """As little of a batch as the network takes: all of it where a part is for images of one size only."""
    whole = any(getattr(part, "fixed_size", None) is not None for part in task.model.children())
    return batch if whole else batch.corner(PROBE)


def parameters(task: Task) -> dict[str, int]:
    """Numbers of parameters: of the deployed network, and trained ones (heads included)."""
    named = list(task.model.named_parameters())
    return {
        "parameters": sum(p.numel() for name, p in named if not is_of_parts(name, task.TRAINING_PARTS)),
        "trained": sum(p.numel() for _, p in named if p.requires_grad),
    }

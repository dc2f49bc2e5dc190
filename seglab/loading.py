"""A trained network from a file: what ``seglab.load`` gives, and what evaluation and prediction start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from seglab import build, checkpoint, trust
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError, ConfigError
from seglab.inference import Protocol
from seglab.losses.base import Criterion
from seglab.metrics.base import Metric
from seglab.models.base import Model
from seglab.predictors.base import Opened, Predictor, choose_device, inverse_label_map
from seglab.tasks.base import Task
from seglab.types import IGNORE, Output, Size
from seglab.version import __version__


@dataclass(frozen=True)
class Loaded:
    """A trained network. Called with an image [B, 3, H, W] (uint8 RGB), it gives the network's output.

    ``size`` is the [height, width] that its logits are to have, of a network that can be asked at any
    (``decoder=ifa``); others give those of their own resolution.
    """

    task: Task
    description: checkpoint.Description
    """What the file says about itself."""

    @property
    def model(self) -> Model:
        """The network."""
        return self.task.model

    @property
    def spec(self) -> DatasetSpec:
        """Classes and palette."""
        return self.task.spec

    def __call__(self, image: Tensor, size: Size | None = None) -> Output:
        output: Output = self.task.model(image, size=size)
        return output


def load(
    path: str | Path, device: Any = "cpu", trust: bool = False, allow_nonfinite: bool = False, heads: bool = False
) -> Loaded:
    """A trained network in evaluation mode, from a checkpoint, an exported folder or a run folder.

    Args:
        path: the file or folder; of a run folder the best checkpoint.
        device: where the network is put.
        trust: build whatever the file names, for networks with classes of your own. Otherwise only parts of networks
            that seglab and torch define are built.
        allow_nonfinite: take weights that are NaN or infinite.
        heads: with the heads beside it, which only train, and the loss terms that read them.

    Raises:
        CheckpointError: unreadable, damaged, naming other things than parts of networks, or not fitting this seglab's.
    """
    tensors, description = checkpoint.open_file(path, allow_nonfinite=allow_nonfinite)
    criterion = criterion_of(tensors, description, trust) if heads else None
    loaded = opened(tensors, description, trust, criterion)
    loaded.task.to(device).eval()
    return loaded


def opened(
    tensors: Mapping[str, Tensor],
    description: checkpoint.Description,
    trusted: bool,
    criterion: Criterion | None = None,
    metrics: Mapping[str, Metric] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Loaded:
    """The task that a file describes, with its tensors.

    Args:
        criterion: with the heads that its terms read, as far as the file has them; None leaves the heads out.
        metrics: of an evaluation.
        config: instead of the file's, with the same network.

    Raises:
        CheckpointError: naming other things than parts of networks, or not fitting this seglab's.
    """
    config = trust.without_weights(config or description.config)
    kind = kind_of(description, trusted)
    if not trusted:
        trust.check(config, (*kind.PARTS, *kind.TRAINING_PARTS, "evaluation"), str(description.path))
    with of_file(description):
        task = build.build_task(config, description.spec, criterion, metrics)
    own = task.model.state_dict().keys()
    used = {
        name: value
        for name, value in tensors.items()
        if name in own or not checkpoint.is_of_parts(name, kind.TRAINING_PARTS)
    }
    checkpoint.fill(task.model, used, description.path)
    return Loaded(task, description)


def kind_of(description: checkpoint.Description, trusted: bool) -> type[Task]:
    """The task that a file is of.

    Raises:
        CheckpointError: not one of seglab's, and the file is not trusted; none at all.
    """
    if not trusted:
        trust.check(description.config, ["task"], str(description.path))
    with of_file(description):
        return build.task_class(description.config)


def criterion_of(tensors: Mapping[str, Tensor], description: checkpoint.Description, trusted: bool) -> Criterion:
    """A file's loss terms, without those of heads that it does not have (an exported network has none).

    Raises:
        CheckpointError: a term that this seglab does not have.
    """
    config = description.config
    with of_file(description):
        terms = build.evaluated_terms(config["loss"], None if trusted else str(description.path))
    named = config.get("heads") or {}
    lacking = [head for head in named if not any(name.startswith(f"heads.{head}.") for name in tensors)]
    with of_file(description):
        return build.build_criterion({"loss": terms}).without(lacking)


def predictor(options: Mapping[str, Any]) -> Predictor:
    """What predicts with a file's network, as the options of ``seglab.predict`` say (ckpt, device, protocol …).

    Raises:
        ConfigError: no such device, an option that no protocol has.
        CheckpointError: see :func:`load`.
    """
    device = choose_device(options["device"])
    loaded = load(options["ckpt"], device, options["trust"], options["allow_nonfinite"])
    stored = loaded.description.config["evaluation"] if options["protocol"] == "stored" else {}
    protocol = Protocol.of(stored, options["evaluation"])
    refinement = build.build_refinement(options["predictor"])
    size = options.get("size")
    opened = Opened(
        loaded.model, loaded.task.PARTS, loaded.spec, loaded.description, protocol, device, refinement,
        size and (size[0], size[1]),
    )  # fmt: skip
    return loaded.task.predictor(opened)


def raw_ids(description: checkpoint.Description) -> np.ndarray:
    """[K] id in the data set's files of each class.

    Raises:
        ConfigError: the data set stores train ids, or several of its ids are one class.
    """
    dataset = description.config["data"]["dataset"]
    if "label_map" in dataset:
        label_map = dataset["label_map"]
    else:  # the data set's own; its files are not needed
        partial = {**dataset, "_partial_": True}
        trust.check({"data": partial}, ["data"], "the checkpoint")
        label_map = build.instantiate(partial, "data.dataset", root=None).spec.label_map
    return inverse_label_map(label_map or {}, description.spec, IGNORE)


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

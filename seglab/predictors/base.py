"""The seam between a trained network and the files that are made of its predictions.

A predictor is a network with its test protocol: image in, prediction out. Which files there are of a prediction, and
whether one is there already, is the business of its writer: some files are of one image, some of all of them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from seglab import trust
from seglab.checksum import checksum
from seglab.data.targets import planes
from seglab.errors import ConfigError
from seglab.inference import Protocol
from seglab.predictors.refine import Refinement, without_gradients
from seglab.runs.atomic import jsonable
from seglab.types import Size

if TYPE_CHECKING:
    from seglab.checkpoint import Description
    from seglab.data.spec import DatasetSpec
    from seglab.models.base import Model


class Opened(NamedTuple):
    """A trained network that is ready to predict."""

    model: Model
    """In evaluation mode, on the device, without its heads."""
    parts: Sequence[str]
    """The nodes of the configuration that make it."""
    spec: DatasetSpec
    description: Description
    protocol: Protocol
    device: torch.device
    refinement: Refinement | None = None
    """Of frames of videos; None: every image is by itself."""
    size: Size | None = None
    """(height, width) of every prediction; None: of its image."""


class Writer(ABC):
    """Writes predictions below a folder, and knows which are there.

    Args:
        folder: the output.
        kinds: which of the predictor's kinds of files.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder = folder
        self.kinds = kinds

    @property
    @abstractmethod
    def places(self) -> list[Path]:
        """Every file or folder directly below the output that may hold predictions, of any kind."""

    @abstractmethod
    def done(self, name: str) -> bool:
        """Whether the image of that name has all the kinds that are asked for."""

    @abstractmethod
    def files(self, name: str) -> list[Path]:
        """The files that are of the image of that name alone and are there, of any kind."""

    @abstractmethod
    def add(self, name: str, image: Any, prediction: Any) -> None:
        """Write the prediction of an image [H, W, 3]; whole or not at all.

        A writer of videos is given a :class:`seglab.data.video.VideoReader`, and its frames with their predictions one
        after another.

        Raises:
            OSError, UserError: it cannot be written.
        """

    def forget(self, names: Iterable[str]) -> None:  # noqa: B027 (nothing to do where every file is of one image)
        """Drop what files of all images say about these."""

    def close(self, order: Sequence[str]) -> None:  # noqa: B027
        """After the last image; ``order`` is that of the images."""


class Predictor(ABC):
    """``predictor(image [H, W, 3] uint8) -> prediction``, as the protocol says."""

    sized: ClassVar[bool] = False
    """Whether its predictions have a size that can be asked for."""
    kinds: ClassVar[tuple[str, ...]]
    """The kinds of files that can be written of a prediction; all are, unless ``write=`` names some."""

    def __init__(self, opened: Opened) -> None:
        self.model, self.parts, self.spec = opened.model, opened.parts, opened.spec
        self.description, self.protocol, self.device = opened.description, opened.protocol, opened.device
        self.refinement, self.size = opened.refinement, opened.size
        self.config = self.description.config
        if self.size is not None and not self.sized:
            raise ConfigError(
                f"size={list(self.size)}: a prediction of this checkpoint is no map of pixels — expected size=null"
            )
        if self.refinement is not None:
            self.refinement.attach(self.model, self.spec, self.protocol)

    def __call__(self, image: np.ndarray, sequence: str = "") -> Any:
        """The prediction of an image; of frames in their order, with the name of their sequence."""
        size = self.result_size((image.shape[0], image.shape[1]))
        refinement = self.refinement
        with without_gradients(refinement):
            shown = self.model.normalise(tensor(image, self.device))
            own = refinement is not None and refinement.own_scores
            scores = shown.new_empty(1, 0) if own else self.scores(shown, size)
            if refinement is not None:
                scores = refinement.along(shown, scores, [sequence])
            return self.read(scores, size)

    def result_size(self, image: Size) -> Size:
        """(height, width) of the prediction of an image of that size."""
        return image if self.size is None else self.size

    @abstractmethod
    def scores(self, image: torch.Tensor, size: Size) -> torch.Tensor:
        """Scores, whose softmax over dimension 1 is the probability, of an image [1, 3, H, W], normalised.

        Args:
            size: [height, width] of the prediction.
        """

    @abstractmethod
    def read(self, scores: torch.Tensor, size: Size) -> Any:
        """The prediction that scores are of, at that size [H, W]."""

    @abstractmethod
    def writer(self, folder: Path, kinds: Sequence[str], raw: np.ndarray | None = None) -> Writer:
        """What writes predictions; ``raw`` [K] are the ids to be stored for classes, of None their own."""

    def video_writer(self, folder: Path, kinds: Sequence[str], raw: np.ndarray | None = None) -> Writer:
        """What writes predictions of video files.

        Raises:
            ConfigError: there is no such thing.
        """
        raise ConfigError(
            f"source= is a video, and a prediction of {type(self).__name__} is of an image — expected a checkpoint of "
            "task=semantic, or images"
        )

    def identity(self) -> dict[str, Any]:
        """What a prediction depends on beside its image: weights, the network around them, the test protocol."""
        about = self.description
        config = trust.without_weights(about.config)
        parts = {part: config.get(part) for part in self.parts}
        network = json.dumps(jsonable([parts, self.spec.classes, self.spec.palette]), sort_keys=True)
        return {
            "checkpoint": {
                "path": str(about.path.absolute()),
                "step": about.step,
                "checksum": about.checksum or checksum(self.model.state_dict()),
            },
            "network": hashlib.sha256(network.encode()).hexdigest(),
            "protocol": jsonable(asdict(self.protocol)),
            "size": self.size and list(self.size),
        }

    def check(self, size: Size) -> None:  # noqa: B027
        """Refuse an image of that size [H, W] that takes more memory than there can be.

        Raises:
            DataError: names the keys that mend it.
        """

    def lighter(self) -> str:
        """What takes less memory than the present protocol."""
        asked = self.protocol
        several = ["evaluation.flip=false"] if asked.flip else []
        several += ["evaluation.ratios=[1.0]"] if len(asked.ratios) > 1 else []
        if not several and asked.mode == "whole":
            several = ["evaluation.mode=slide evaluation.window=[512,512] evaluation.stride=[341,341]"]
        return f"set {' or '.join([*several, 'a smaller evaluation.long_short=[long,short]'])}"

    def works(self) -> bool:
        """Whether the device still computes: some errors on a GPU leave it useless for the rest of the process."""
        try:
            return bool((torch.ones(1, device=self.device) + 1).item() == 2)
        except RuntimeError:
            return False


def tensor(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """[1, 3, H, W] uint8 on the device, of an image [H, W, 3] uint8."""
    return planes(image)[None].to(device)


def chosen(kinds: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """The kinds of files that are asked for, all where none is named.

    Raises:
        ConfigError: one that this predictor does not write, or an empty list.
    """
    if kinds is None:
        return list(there)
    if not kinds or not all(kind in list(there) for kind in kinds):
        raise ConfigError(f"write={list(kinds)} — expected one or more of {', '.join(there)}, e.g. write=[{there[0]}]")
    return list(kinds)


def choose_device(name: str) -> torch.device:
    """The named device, or with ``auto`` the fastest; ConfigError where it is not there."""
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        name = next(kind for kind, number in there.items() if number)
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (device.index or 0) >= there.get(device.type, 0):
        usable = ", ".join(kind for kind, number in there.items() if number)
        raise ConfigError(f"device={name} — expected auto or one that is here: {usable}")
    return device


def out_of_memory(error: Exception) -> bool:
    """Whether a smaller image would have passed."""
    known = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in known)


def inverse_label_map(label_map: Mapping[int, int], spec: DatasetSpec, void: int) -> np.ndarray:
    """[K] id in the data set's files of each class (Cityscapes' server wants these).

    Raises:
        ConfigError: the data set stores train ids, or several of its ids are one class.
    """
    back: dict[int, list[int]] = {}
    for raw, train in label_map.items():
        back.setdefault(int(train), []).append(int(raw))
    back.pop(void, None)
    if sorted(back) != list(range(spec.num_classes)) or any(len(ids) > 1 for ids in back.values()):
        raise ConfigError(
            f"labels_out=raw: {spec.name} has no label map that can be inverted — expected one stored id per "
            "class; use labels_out=train"
        )
    return np.array([back[k][0] for k in range(spec.num_classes)])

"""A trained network with its test protocol: from an image to the class of every pixel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seglab import build, trust
from seglab.checksum import checksum
from seglab.data.targets import planes
from seglab.errors import ConfigError, DataError
from seglab.inference import Protocol, infer
from seglab.ops.resize import resize_argmax
from seglab.runs.atomic import jsonable
from seglab.types import IGNORE

if TYPE_CHECKING:
    from seglab.data.spec import DatasetSpec

MAX_SCORES = 2**32
"""Scores of an image that are held at once (16 GiB), unless ``max_pixels`` asks for it."""


class Network:
    """Image [H, W, 3] uint8 -> class ids [H, W] uint8 of its own size, as the protocol says."""

    def __init__(
        self,
        ckpt: str,
        device: str,
        protocol: str,
        changes: Mapping[str, Any],
        trusted: bool = False,
        allow_nonfinite: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self.model = build.load(ckpt, self.device, trusted, allow_nonfinite)
        assert self.model.spec is not None
        assert self.model.description is not None  # of a loaded network
        self.spec = self.model.spec
        self.config: Mapping[str, Any] = self.model.description.config
        self.protocol = Protocol.of(self.config["evaluation"] if protocol == "stored" else {}, changes)

    def identity(self) -> dict[str, Any]:
        """What a prediction depends on beside its image: weights, the network around them, the test protocol."""
        about = self.model.description
        assert about is not None
        config = trust.without_weights(about.config)
        parts = {part: config.get(part) for part in trust.PARTS}
        network = json.dumps(jsonable([parts, self.spec.classes, self.spec.palette]), sort_keys=True)
        return {
            "checkpoint": {
                "path": str(about.path.absolute()),
                "step": about.step,
                "checksum": about.checksum or checksum(self.model.state_dict()),
            },
            "network": hashlib.sha256(network.encode()).hexdigest(),
            "protocol": jsonable(asdict(self.protocol)),
        }

    def check_scores(self, size: tuple[int, int]) -> None:
        """Refuse an image [H, W] whose scores, where the protocol needs them at full resolution, are too many to hold.

        Raises:
            DataError: names the keys that mend it.
        """
        scores = self.spec.num_classes * self.protocol.held(size)
        if scores > MAX_SCORES:
            raise DataError(
                f"{size[0]}x{size[1]} pixels, whose scores for {self.spec.num_classes} classes take "
                f"{scores / 2**28:.0f} GiB — expected at most {MAX_SCORES / 2**28:.0f}; {self.lighter()}, or try it "
                f"with max_pixels={size[0] * size[1]}"
            )

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

    def __call__(self, image: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            shown = self.model.normalise(planes(image)[None].to(self.device))
            scores = infer(lambda view: self.model(view).logits, shown, self.protocol, size)
            return resize_argmax(scores, size)[0].cpu().numpy().astype(np.uint8)


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


def raw_ids(config: Mapping[str, Any], spec: DatasetSpec) -> np.ndarray:
    """[K] id in the data set's files of each class (Cityscapes' server wants these).

    Raises:
        ConfigError: the data set stores train ids, or several of its ids are one class.
    """
    dataset = config["data"]["dataset"]
    if "label_map" in dataset:
        label_map = dataset["label_map"]
    else:  # the data set's own; its files are not needed
        partial = {**dataset, "_partial_": True}
        trust.check({"data": partial}, ["data"], "the checkpoint")
        label_map = build.instantiate(partial, "data.dataset", root=None).spec.label_map
    back: dict[int, list[int]] = {}
    for raw, train in (label_map or {}).items():
        back.setdefault(int(train), []).append(int(raw))
    back.pop(IGNORE, None)
    if sorted(back) != list(range(spec.num_classes)) or any(len(ids) > 1 for ids in back.values()):
        raise ConfigError(
            f"labels_out=raw: {spec.name} has no label map that can be turned around — expected one stored id per "
            "class; use labels_out=train"
        )
    return np.array([back[k][0] for k in range(spec.num_classes)])


def out_of_memory(error: Exception) -> bool:
    """Whether a smaller image would have passed."""
    known = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in known)

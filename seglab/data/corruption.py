"""Images that are corrupted before a network is evaluated on them: fog, blur, noise and others, of several severities.

How much a score falls says how robust a trained network is (Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019). The image is changed at its own size, before the test
protocol resizes it and before the network normalises it. Labels stay as they are, so only transforms of pixel values
are allowed. Random numbers depend on (seed, index of the item) alone, not on the network: all of them see the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from seglab.data.augment import A, generators
from seglab.errors import ConfigError

CORRUPTION = 0xC02
"""Separates these random numbers from those of training."""

UNUSABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, cv2.error)
"""What a transform raises at an image, or at what else it wants to be given."""


def at_severity(
    transform: Mapping[str, Any], levels: Sequence[Mapping[str, Any]] | None, severity: int | None
) -> dict[str, Any]:
    """The node of a transform with the parameters of a severity laid over it.

    Args:
        transform: ``_target_``, and parameters that all severities share.
        levels: parameters of the severities 1, 2, …; None: the transform has one severity only.
        severity: which of them; None where there is one only.

    Raises:
        ConfigError: no such severity.
    """
    if not levels:
        if severity is not None:
            raise ConfigError(
                f"corruption.severity={severity} — expected null: there are no parameters of severities; list them in "
                "corruption.levels, or set those of corruption.transform"
            )
        return dict(transform)
    if severity is None or not 1 <= severity <= len(levels):
        shown = "null" if severity is None else severity
        raise ConfigError(f"corruption.severity={shown} — expected a whole number from 1 to {len(levels)}")
    return {**transform, **levels[severity - 1]}


class Corruption:
    """``corruption(image, index) -> image``, both [H, W, 3] uint8 RGB: one transform of albumentations.

    Args:
        transform: built of ``parameters``. Where these have no ``p``, every image is transformed.
        parameters: its node, ``_target_`` included, as it is recorded.
        name: as it is recorded; None: the class's.
        severity: as it is recorded.
        seed: of all random numbers.

    Raises:
        ConfigError: no transform, or one that is not of pixel values only.
    """

    def __init__(
        self,
        transform: Any,
        parameters: Mapping[str, Any],
        name: str | None = None,
        severity: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(transform, A.ImageOnlyTransform):
            raise ConfigError(
                f"corruption.transform={parameters['_target_']} is no transform of pixel values alone — expected a "
                "subclass of albumentations.ImageOnlyTransform, such as albumentations.GaussNoise: the labels stay as "
                "they are"
            )
        if "p" not in parameters:  # albumentations' own default leaves every second image as it is
            transform.p = 1.0
        self.transform = transform
        self.parameters = {**parameters, "p": transform.p}
        self.name = name or type(transform).__name__
        self.severity = severity
        self.seed = seed

    def __call__(self, image: np.ndarray, index: int) -> np.ndarray:
        """Item ``index`` corrupted, a copy; the same index gives the same pixels.

        Raises:
            ConfigError: the transform fails, or makes an image of another size or type.
        """
        self.transform.set_random_state(*generators(CORRUPTION, self.seed, index))
        try:
            made = self.transform(image=image.copy())["image"]
        except UNUSABLE as error:
            reason = str(error).strip().replace("\n", " ")
            raise ConfigError(
                f"corruption.transform={self.parameters['_target_']} fails on an image of {_shown(image)}: {reason} — "
                "expected a transform that needs nothing but the image; choose another"
            ) from error
        if made.dtype != np.uint8 or made.shape != image.shape:
            raise ConfigError(
                f"corruption.transform={self.parameters['_target_']} makes {_shown(made)} of an image of "
                f"{_shown(image)} — expected its size and type unchanged; choose another transform"
            )
        return made

    def __str__(self) -> str:
        return self.name + (f", severity {self.severity}" if self.severity is not None else "")

    def record(self) -> dict[str, Any]:
        """What decides the pixels, to be written with a result."""
        return {"name": self.name, "severity": self.severity, "seed": self.seed, "transform": self.parameters}


class Compression(A.ImageCompression):
    """albumentations' ImageCompression with the colours of an RGB image.

    In version 2.0.8 it hands RGB to OpenCV, which takes it as BGR: red would be weighed as blue, and the artefacts be
    those of another image.
    """

    def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """The image [H, W, 3] uint8 RGB encoded and decoded."""
        decoded = super().apply(np.ascontiguousarray(img[..., ::-1]), *args, **params)
        return np.ascontiguousarray(decoded[..., ::-1])


def _shown(image: np.ndarray) -> str:
    return f"{image.dtype} {list(image.shape)}"

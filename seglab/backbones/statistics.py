"""What the images that a backbone was pretrained on were normalised with: a property of its weights."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

IMAGENET: dict[str, Sequence[float]] = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def of(node: Mapping[str, Any], which: Literal["mean", "std"]) -> list[float]:
    """Mean or standard deviation per channel R, G, B on the scale 0..255, for ``${statistics:${backbone},mean}``.

    Args:
        node: a backbone's configuration. Its class says what its weights want where it has a function
            ``statistics(node)``, which gives mean and std on the scale 0..1 by name; else ImageNet's are taken. A class
            that cannot be imported is complained of when it is built.
    """
    try:
        backbone = pkgutil.resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError, KeyError, TypeError):
        backbone = None
    own = backbone.statistics(node) if hasattr(backbone, "statistics") else IMAGENET
    return [round(255 * float(value), 6) for value in own[which]]

"""Published FFNets: their tensors under seglab's names and back, and the overrides that make one of them.

network.model.load_state_dict(ours(tensors))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from seglab.backbones.ffnet import variant
from seglab.errors import CheckpointError, ConfigError

RULES = (
    ("smoothing.", "backbone.smoothing."),
    ("backbone_model.", "backbone."),
    *((f"head.layers.0.adapter_conv.{i}.layers.", f"decoder.top_down.adapters.{i}.") for i in range(4)),
    ("head.layers.1.fam_4.layers.", "decoder.top_down.smooths.0."),
    ("head.layers.1.fam_8_sm.layers.", "decoder.top_down.smooths.1."),
    ("head.layers.1.fam_16_sm.layers.", "decoder.top_down.smooths.2."),
    ("head.layers.1.fam_32_sm.layers.", "decoder.top_down.smooths.3."),
    ("head.layers.1.fam_8_up.layers.", "decoder.top_down.reductions.0."),
    ("head.layers.1.fam_16_up.layers.", "decoder.top_down.reductions.1."),
    ("head.layers.1.fam_32_up.layers.", "decoder.top_down.reductions.2."),
    ("head.layers.3.last_layer.3.", "classifier.conv."),
    ("head.layers.3.last_layer.", "decoder.fuse."),
    ("head.layers.2.expansion_layers.", "decoder.expansions."),
    ("head.layers.2.downsampling_layers.", "decoder.downsamplings."),
    ("head.layers.2.final_layer.", "decoder.final."),
    ("head.layers.2.classifier.", "classifier.conv."),
)
"""Beginnings of names, theirs and ours; the first that fits counts, in both directions. ``head.layers.2`` belongs to
image classifiers alone, ``head.layers.3`` to segmentation."""
LINEAR = "head.layers.2.classifier.weight"
"""A matrix [K, C] there, a 1x1 convolution here."""


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in rules if name.startswith(old)), None)


def recognises(names: Mapping[str, object]) -> bool:
    """Whether tensors have the published names."""
    return any(name.startswith("backbone_model.") for name in names)


def ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under seglab's names.

    Raises:
        CheckpointError: a name that no published FFNet has.
    """
    found = {}
    for name, value in state.items():
        new = _renamed(name, RULES)
        if new is None:
            raise CheckpointError(f"the tensor '{name}' is of no published FFNet — expected backbone_model.… or head.…")
        found[new] = value[:, :, None, None] if name == LINEAR else value
    return found


def theirs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`ours`, for the state dict of a network put together as :func:`overrides` says.

    Raises:
        CheckpointError: a tensor that no published FFNet has.
    """
    of_images = any(name.startswith("decoder.final.") for name in state)
    other = "head.layers.3." if of_images else "head.layers.2."
    rules = [(new, old) for old, new in RULES if not old.startswith(other)]
    found = {}
    for name, value in state.items():
        new = _renamed(name, rules)
        if new is None:
            raise CheckpointError(f"the tensor '{name}' has no place in a published FFNet — see seglab.interop.ffnet")
        found[new] = value[:, :, 0, 0] if new == LINEAR else value
    return found


def overrides(name: str) -> list[str]:
    """The command line's words for a published network; the number of classes follows from the data.

    Args:
        name: of :data:`seglab.backbones.ffnet.NAMES`, or with ``segmentation_`` or ``classification_`` in front.

    Raises:
        ConfigError: no such name, or one of an encoder alone.
    """
    kind = variant(name)
    if kind.up is None:
        raise ConfigError(f"'{name}' is an encoder — expected a whole network such as ffnet78S_dBBB_mobile")
    upsampling = "nearest" if kind.mobile else "bilinear"
    found = ["backbone=ffnet", f"backbone.name={name}", f"decoder.up={kind.up}", f"decoder.upsampling={upsampling}"]
    if kind.classifies:
        dropout = 0.2 if "N" in kind.encoder else 0
        return ["task=classification", "decoder=ffnet_category", *found, f"classifier.dropout={dropout}"]
    kernel = 3 if kind.seg == "B" else 1
    last = [f"classifier.kernel={kernel}", "classifier.dropout=0"]
    return ["decoder=ffnet", f"decoder.seg={kind.seg}", *found, "classifier=linear", *last]

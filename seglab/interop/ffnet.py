"""Published FFNets: their tensors under seglab's names and back, and the overrides that make one of them.

network.model.load_state_dict(ours(torch.load(file, weights_only=True)))
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from seglab.backbones.ffnet import NAMES, variant
from seglab.errors import CheckpointError, ConfigError

RULES = (
    ("backbone_model.", "backbone."),
    ("smoothing.", "backbone.smoothing."),
    ("head.layers.0.adapter_conv.{i}.layers.", "decoder.top_down.adapters.{i}."),
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
"""Beginnings of names, theirs and ours; the first that fits counts. Of two with one name of ours, one belongs to
segmentation and one to classification."""
LINEAR = "head.layers.2.classifier.weight"
"""A matrix [K, C] there, a 1x1 convolution here."""


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in rules:
        pattern = re.escape(old).replace(r"\{i\}", r"(\d+)")
        if found := re.match(pattern, name):
            return new.replace("{i}", found[1] if found.groups() else "") + name[found.end() :]
    return None


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
    # A longer name of ours first: backbone.smoothing before backbone.
    rules = sorted(((b, a) for a, b in RULES if not a.startswith(other)), key=lambda pair: -len(pair[0]))
    found = {}
    for name, value in state.items():
        new = _renamed(name, tuple(rules))
        if new is None:
            raise CheckpointError(f"the tensor '{name}' has no place in a published FFNet — see seglab.interop.ffnet")
        found[new] = value[:, :, 0, 0] if new == LINEAR else value
    return found


def backbone(name: str) -> str:
    """The encoder of a network, by its own name: ``ffnet78S_dBBB_mobile`` is on ``ffnet78S_d``.

    Raises:
        ConfigError: no such name.
    """
    kind = variant(name, "the name")
    return f"ffnet{kind.encoder}{'_d' * kind.downsampled}{'_pre_down' * kind.pre_down}"


def overrides(name: str) -> list[str]:
    """The command line's words for a published network; the number of classes follows from the data.

    Args:
        name: of :data:`seglab.backbones.ffnet.NAMES`, with or without ``segmentation_`` or ``classification_``.

    Raises:
        ConfigError: no such name, or one of an encoder alone.
    """
    kind = variant(name, "the name")
    short = name.removeprefix("segmentation_").removeprefix("classification_")
    if short not in NAMES:
        raise ConfigError(f"'{name}' is an encoder — expected a whole network such as ffnet78S_dBBB_mobile")
    upsampling = "nearest" if kind.mobile else "bilinear"
    found = ["backbone=ffnet", f"backbone.name={short}", f"decoder.up={kind.up}", f"decoder.upsampling={upsampling}"]
    if kind.classifies:
        dropout = 0.2 if "N" in kind.encoder else 0
        return ["task=classification", "decoder=ffnet_category", *found, f"classifier.dropout={dropout}"]
    kernel = 3 if kind.seg == "B" else 1
    last = [f"classifier.kernel={kernel}", "classifier.dropout=0"]
    return ["decoder=ffnet", f"decoder.seg={kind.seg}", *found, "classifier=linear", *last]

"""What earlier formats of checkpoints called things, in the present names: the record and the tensors together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OLD, NEW = "auxiliary", "aux"
"""Format 1 had one auxiliary head, a node of its own; format 2 has heads by name, and this one is ``aux``."""

WHOLE = re.compile(rf"^((?:model\.|module\.|_orig_mod\.)*){OLD}\.")
"""The head's part of a tensor's name, behind what wraps the network."""


def second(stored: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2: heads by name, and ``long_short``, which was called ``scale``."""
    if not isinstance(stored.get("config"), Mapping):
        return {**stored, "format": 2}
    config = {**stored["config"], "heads": {}}
    for name, target in (("augment", "seglab.data.augment.Augment"), ("evaluation", "seglab.inference.Protocol")):
        node = config.get(name)
        if isinstance(node, Mapping) and node.get("_target_") == target:
            config[name] = {"long_short" if key == "scale" else key: value for key, value in node.items()}
            if node.get("multiscale_base") == "scale":
                config[name]["multiscale_base"] = "long_short"
    head = config.pop(OLD, None)
    changed = {**stored, "format": 2, "config": config}
    if isinstance(head, Mapping):
        ours = head.get("_target_") == "seglab.decoders.AuxiliaryFCN"
        config["heads"] = {NEW: {**head, "_target_": "seglab.heads.FCNHead"} if ours else dict(head)}
        config["loss"] = {name: _term(node) for name, node in dict(config.get("loss") or {}).items()}
    return changed


def named_heads_of(content: dict[str, Any], key: str) -> dict[str, Any]:
    """A checkpoint of format 1 with the tensors' names of format 2; its record (at ``key``) keeps its format."""
    kept = ("state_dict", "averaging_state", "current_model_state")
    renamed = {name: named_heads_in(content[name]) for name in kept if isinstance(content.get(name), Mapping)}
    return {**content, **renamed, key: without_other_sums(content[key])}


def named_heads_in(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names of format 2, of those of format 1."""
    return {WHOLE.sub(rf"\1heads.{NEW}.", name): value for name, value in tensors.items()}


def without_other_sums(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A record of format 1, without checksums if there is a head: they were over other tensors than those of today."""
    config = stored.get("config")
    headed = isinstance(config, Mapping) and config.get(OLD)
    return {name: value for name, value in stored.items() if not (headed and name == "checksum")}


IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
"""What images were normalised with where a configuration said nothing."""


def own_normalize(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the node ``normalize``, of one in which the augmentation holds mean and std."""
    if isinstance(config.get("normalize"), Mapping):
        return dict(config)
    augment = config.get("augment")
    node = augment if isinstance(augment, Mapping) else {}
    normalize = {"_target_": "seglab.models.normalise.Normalise", **IMAGENET}
    normalize |= {key: node[key] for key in IMAGENET if key in node}
    kept = {key: value for key, value in node.items() if key not in IMAGENET}
    return {**config, **({"augment": kept} if node else {}), "normalize": normalize}


def _term(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        key: NEW if key in ("branch", "student", "teacher") and value == OLD else value for key, value in node.items()
    }

"""What earlier formats of checkpoints called things, in the present names: the record and the tensors together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OLD, NEW = "auxiliary", "aux"
"""Format 1 had one auxiliary head, a node of its own; format 2 has heads by name, and this one is ``aux``."""

WHOLE = re.compile(rf"^((?:model\.|module\.|_orig_mod\.)*){OLD}\.")
"""The head's part of a tensor's name, behind what wraps the network."""
OWN = re.compile(r"^((?:module\.|_orig_mod\.)*)((?:model|criterion|metrics|averages)\.)")
"""What formats 1 and 2 had as the training module's own, and format 3 has as its task's."""

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
"""What images were normalised with before format 3 where the augmentation said nothing."""


def to_format_2(stored: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2: heads by name, and ``long_short``, which was called ``scale``."""
    if not isinstance(stored.get("config"), Mapping):
        return {**stored, "format": 2}
    config = {"heads": {}, **stored["config"]}
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


def to_format_3(stored: dict[str, Any]) -> dict[str, Any]:
    """A record of format 2 as one of format 3: a task, and the normalisation as a node of its own."""
    changed = {**stored, "format": 3, "training_parts": ["heads"]}
    if not isinstance(stored.get("config"), Mapping):
        return changed
    config = dict(stored["config"])
    task = config.get("task")
    if isinstance(task, Mapping) and task.get("_target_") == "seglab.module.SegmentationModule":
        config["task"] = {**task, "_target_": "seglab.tasks.Semantic"}
    if "normalize" not in config:
        augment = config.get("augment")
        node = augment if isinstance(augment, Mapping) else {}
        if node:
            config["augment"] = {key: value for key, value in node.items() if key not in IMAGENET}
        statistics = IMAGENET | {key: node[key] for key in IMAGENET if key in node}
        config["normalize"] = {"_target_": "seglab.models.normalise.Normalise", **statistics}
    return {**changed, "config": config}


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run of any format, as its ``config.yaml`` has it, in the present form."""
    return dict(to_format_3(to_format_2({"config": config}))["config"])


def present_names(content: dict[str, Any], key: str) -> dict[str, Any]:
    """A checkpoint of an earlier format with the tensors' names of today; its record (at ``key``) keeps its format."""
    number = format_of(content.get(key))
    if number not in (1, 2):
        return content
    kept = ("state_dict", "averaging_state", "current_model_state")
    renamed = {name: of_task(content[name], number) for name in kept if isinstance(content.get(name), Mapping)}
    return {**content, **renamed, key: without_other_sums(content[key], number)}


def of_task(tensors: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A training module's tensors by their names of today: since format 3 all of them are the task's."""
    named = named_heads_in(tensors) if number == 1 else tensors
    return {OWN.sub(r"\1task.\2", name): value for name, value in named.items()}


def present_tensors(tensors: dict[str, Any], stored: Any) -> dict[str, Any]:
    """A network's own tensors by their names of today."""
    return named_heads_in(tensors) if format_of(stored) == 1 else tensors


def format_of(stored: Any) -> Any:
    """The number in a record; None without one."""
    return stored.get("format") if isinstance(stored, Mapping) else None


def named_heads_in(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names of format 2, of those of format 1."""
    return {WHOLE.sub(rf"\1heads.{NEW}.", name): value for name, value in tensors.items()}


def without_other_sums(stored: Mapping[str, Any], number: int) -> dict[str, Any]:
    """An earlier record without checksums that were over other names than those of today.

    That of the network is over its own names, which only a head of format 1 changes.
    """
    config = stored.get("config")
    headed = number == 1 and isinstance(config, Mapping) and config.get(OLD)
    sums = stored.get("checksum")
    if headed or not isinstance(sums, Mapping):
        return {name: value for name, value in stored.items() if name != "checksum"}
    return {**stored, "checksum": {name: value for name, value in sums.items() if name != "training"}}


def _term(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        key: NEW if key in ("branch", "student", "teacher") and value == OLD else value for key, value in node.items()
    }

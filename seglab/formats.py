"""What earlier formats of checkpoints called things, in the present names: the record and the tensors together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLD, NEW = "auxiliary", "aux"
"""Format 1 had one auxiliary head, a node of its own; format 2 has heads by name, and this one is ``aux``."""


def second(stored: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2: heads by name, and ``long_short``, which was called ``scale``."""
    if not isinstance(stored.get("config"), Mapping):
        return {**stored, "format": 2}
    config = {**stored["config"], "heads": {}}
    for name, ours in (("augment", "seglab.data.augment.Augment"), ("evaluation", "seglab.inference.Protocol")):
        node = config.get(name)
        if isinstance(node, Mapping) and node.get("_target_") == ours:
            config[name] = {"long_short" if key == "scale" else key: value for key, value in node.items()}
            if node.get("multiscale_base") == "scale":
                config[name]["multiscale_base"] = "long_short"
    head = config.pop(OLD, None)
    changed = {**stored, "format": 2, "config": config}
    if isinstance(head, Mapping):
        config["heads"] = {NEW: {**head, "_target_": "seglab.heads.FCNHead"}}
        config["loss"] = {name: _term(node) for name, node in dict(config.get("loss") or {}).items()}
        changed.pop("checksum", None)  # it was over the head's tensors as well
    return changed


def named_heads_of(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 1 with the tensors' names of format 2; its record is left as it is."""
    kept = ("state_dict", "averaging_state", "current_model_state")
    renamed = {key: named_heads_in(content[key]) for key in kept if isinstance(content.get(key), Mapping)}
    return {**content, **renamed}


def named_heads_in(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names of format 2, of those of format 1."""
    return {_renamed(name): value for name, value in tensors.items()}


def _renamed(name: str) -> str:
    before, found, after = name.partition(f"{OLD}.")
    whole = found and (not before or before.endswith("."))
    return f"{before}heads.{NEW}.{after}" if whole and not before.startswith("classifier") else name


def _term(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        key: NEW if key in ("branch", "student", "teacher") and value == OLD else value for key, value in node.items()
    }

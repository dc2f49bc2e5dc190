"""Which parameter gets which learning rate and weight decay.

lr(p) = lr * head_lr              outside the backbone
lr(p) = lr * layer_decay^n        in the backbone, n layers below the head (the last block: 1)
weight_decay(p) = 0               for the kinds in ``no_decay``
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from seglab.errors import ConfigError

KINDS = ("norm", "bias", "position", "vector")
POSITION = re.compile(
    r"(relative_position_bias_table|rel_pos|pos_embed|position_embedding|pos_block|cpb_mlp"
    r"|(cls|reg|dist|mask)_token|class_token|register_token)"
)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    head_lr: float = 1.0,
    layer_decay: float | None = None,
    no_decay: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Every trainable parameter once, in named groups with their own ``lr`` and ``weight_decay``.

    Args:
        model: a network whose backbone is the attribute ``backbone``.
        lr: base learning rate.
        weight_decay: of the groups that are decayed.
        head_lr: factor on the learning rate of everything outside the backbone.
        layer_decay: factor per layer of the backbone, from its output down; needs
            ``backbone.layers_below_head()``.
        no_decay: kinds of parameters that are not decayed: ``norm`` (of any normalisation layer), ``bias``,
            ``position`` (position tables, class and register tokens), ``vector`` (whatever has at most one dimension).

    Raises:
        ConfigError: an unknown kind, a factor that is not positive, no trainable parameter, layer decay without layers.
    """
    no_decay = frozenset(no_decay)
    if unknown := no_decay - set(KINDS):
        raise ConfigError(f"optim.no_decay names {', '.join(sorted(unknown))} — expected some of {', '.join(KINDS)}")
    for key, value in {"head_lr": head_lr, "layer_decay": layer_decay}.items():
        if value is not None and not value > 0:
            raise ConfigError(f"optim.{key}={value} — expected a number above 0")

    below = layers_below_head(model) if layer_decay is not None else {}
    kinds = parameter_kinds(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = bool(kinds[name] & no_decay) and weight_decay > 0
        part, factor = "head", head_lr
        if name.startswith("backbone."):
            part, factor = "backbone", 1.0
            if layer_decay is not None:
                part, factor = f"backbone.{below[name]:02d}", layer_decay ** below[name]
        key = f"{part}.no_decay" if exempt else part
        decay = 0.0 if exempt else weight_decay
        group = groups.setdefault(key, {"params": [], "name": key, "lr": lr * factor, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("the network has no trainable parameter — unfreeze some of it")
    return [groups[key] for key in sorted(groups)]


def layers_below_head(model: nn.Module) -> dict[str, int]:
    """How far below the head the backbone's parameters lie, under their names in the whole network."""
    backbone: Any = getattr(model, "backbone", None)
    if not hasattr(backbone, "layers_below_head"):
        raise ConfigError(f"{type(backbone).__name__} does not number its layers — set optim.layer_decay=null")
    return {f"backbone.{name}": layers for name, layers in backbone.layers_below_head().items()}


def parameter_kinds(model: nn.Module) -> dict[str, frozenset[str]]:
    """The kinds (see ``KINDS``) of every parameter; one may be of several."""
    kinds = {}
    for prefix, module in model.named_modules():
        norm = "norm" in type(module).__name__.lower()  # torch's and timm's normalisation layers all say so
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            facts = {
                "norm": norm and parameter.ndim <= 1,
                "bias": own.endswith("bias"),
                "position": POSITION.search(name) is not None,
                "vector": parameter.ndim <= 1,
            }
            kinds[name] = frozenset(kind for kind, holds in facts.items() if holds)
    return kinds

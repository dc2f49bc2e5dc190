"""The top level of each command's configuration: every key that is read, and of what kind its value is.

Anything else that a command line adds would be read by nothing, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from seglab import checks

Node = Mapping[str, Any]

TRAIN: dict[str, Any] = {
    **dict.fromkeys(("task", "augment", "optim", "trainer", "evaluation", "data", "loss", "sweep", "search"), Node),
    **dict.fromkeys(("metrics", "callbacks", "logger", "regularizer"), Node | None),
    "run_dir": str, "seed": int, "resume": str | None, "init_from": str | None, "overwrite": bool,
    "allow_nonfinite": bool, "test": Literal["last", "best"] | None,
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    **dict.fromkeys(("evaluation", "data", "trainer", "predictor"), Node),
    **dict.fromkeys(("metrics", "callbacks", "corruption"), Node | None),
    "ckpt": str, "split": str, "output": str, "oracle": bool, "images": int,
    "protocol": Literal["stored", "plain"], "class_order": Literal["refuse", "ignore"], "trust": bool,
    "allow_nonfinite": bool, "seed": int | None, "sweep": Node,
}  # fmt: skip
PREDICT: dict[str, Any] = {
    "ckpt": str, "source": str, "output": str, "write": list[str] | None,
    "labels_out": Literal["train", "raw"], "overwrite": bool, "device": str, "trust": bool, "allow_nonfinite": bool,
    "max_pixels": int | None, "size": list[int] | None, "protocol": Literal["stored", "plain"], "evaluation": Node,
    "predictor": Node,
}  # fmt: skip
CORRUPTION: dict[str, Any] = {
    "name": str | None, "severity": int | None, "seed": int, "transform": Node | None, "levels": list[Node] | None,
}  # fmt: skip
"""The keys of evaluation's node ``corruption``."""
EXPORT: dict[str, Any] = {"ckpt": str, "output": str, "trust": bool, "allow_nonfinite": bool}
HS3: dict[str, Any] = {
    "run": str, "output": str | None, "layers": list[str] | None, "tan_theta": float | Mapping[str, float],
    "none_fits": str, "data": Node, "device": str, "trust": bool, "allow_nonfinite": bool,
}  # fmt: skip
LARGEST_SEED = 2**32 - 1


def parts(*names: str) -> dict[str, Any]:
    """The keys of the nodes that make a task's network."""
    return dict.fromkeys(names, Node | None)


def check(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads, and values of a wrong kind.

    Raises:
        ConfigError: names the key, and the nearest one that exists or what is expected.
    """
    checks.known_keys(options, known)
    for name, value in options.items():
        checks.kind(name, value, known[name])
    if options.get("seed") is not None:
        checks.within("seed", options["seed"], 0, LARGEST_SEED)
    if "images" in options:
        checks.within("images", options["images"], 0)

"""What a file from elsewhere may do: hold plain data, and name parts of networks. SECURITY.md says what follows.

A configuration that a checkpoint, an exported folder or a run's ``config.yaml`` carries is data. It was resolved when
it was written, so an interpolation in it is refused before anything could resolve it. It may only name classes that are
parts of networks, or of the data and losses where those are built from it as well.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seglab.errors import CheckpointError

NETWORK_CLASSES = (
    "seglab.models.", "seglab.backbones.", "seglab.decoders.", "seglab.classifiers.", "seglab.heads.",
    "torch.nn.modules.",
)  # fmt: skip
"""Where the classes of a network's parts may be defined; which nodes these are, the task says."""
OTHER_CLASSES = {
    "data": ("seglab.data.",),
    "augment": ("seglab.data.augment.",),
    "loss": ("seglab.losses.",),
    "task": ("seglab.tasks.",),
    "metrics": ("seglab.metrics.", "seglab.backbones.extractor.", "seglab.flow."),
    "evaluation": ("seglab.inference.",),
}
"""Where those of the other nodes may be that are built from a file."""


def check(config: Mapping[str, Any], parts: Sequence[str], where: str) -> None:
    """Refuse a configuration from a file whose ``parts`` name anything but classes of those parts.

    Args:
        where: the file, for messages.

    Raises:
        CheckpointError: another target, arguments without names (which would escape :func:`without_weights`), or
            weights to be opened or downloaded by what is no part of the network.
    """
    for part in parts:
        key = f"{where}: its {part}"
        check_targets(config.get(part), key, OTHER_CLASSES.get(part, NETWORK_CLASSES))
        if part in OTHER_CLASSES:
            refuse_weights(config.get(part), key, part)


def refuse_weights(node: Any, key: str, part: str) -> None:
    """Refuse a node that names weights by a file or on a hub; those of an installed package may be read.

    Raises:
        CheckpointError: says how to name them oneself.
    """
    for found in nodes(node):
        named = {name: found.get(name) for name in ("weights", "pretrained")}
        if isinstance(named["weights"], str) or named["pretrained"] in (True, "hub"):
            raise CheckpointError(
                f"{key} names weights ({', '.join(f'{name}={value}' for name, value in named.items())}), which are "
                f"neither opened nor downloaded for a file — choose {part}= and its weights on the command line, or, "
                "if the file is your own, set trust=true"
            )


def check_targets(node: Any, key: str, allowed: Sequence[str]) -> None:
    """Refuse a node that names anything but classes that the ``allowed`` modules define.

    Raises:
        CheckpointError: names the target and says how to build it nevertheless.
    """
    for found in nodes(node):
        if "_args_" in found:
            raise CheckpointError(
                f"{key} holds arguments without names (_args_): not built from a file — if the file is your own, or "
                "you have read its configuration, set trust=true"
            )
        if "_target_" not in found:
            continue
        target = str(found["_target_"])
        try:
            made = pkgutil.resolve_name(target) if target.startswith(("seglab.", "torch.nn.")) else None
        except (ImportError, AttributeError, ValueError):
            raise CheckpointError(
                f"{key} names {target}, which this seglab does not have — expected the version that wrote it, or newer"
            ) from None
        # A module also gives access to functions and to what it imports: only a class counts, and where it was defined.
        if not inspect.isclass(made) or not f"{made.__module__}.".startswith(tuple(allowed)):
            raise CheckpointError(
                f"{key} names {target}, which is no class of {', '.join(name.strip('.') for name in allowed)}: not "
                "built from a file — if the file is your own, or you have read its configuration, set trust=true"
            )


def nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a configuration, however deep."""
    if isinstance(node, Mapping):
        yield node
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ():
        yield from nodes(child)


def refuse_interpolations(config: Any, where: str) -> None:
    """Refuse a configuration from a file that asks to be resolved: resolvers build objects and read secrets.

    Raises:
        CheckpointError: names the key.
    """
    for key, text in texts(config):
        if "${" in text:
            raise CheckpointError(
                f"{where}: {key}={text[:80]} — expected plain values: seglab stores what interpolations stand for, so "
                "the file was made or changed by something else; do not use it"
            )


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration, names of keys included, with its dotted place."""
    if isinstance(node, str):
        yield key, node
    named = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, child in named:
        place = f"{key}[{name}]" if isinstance(name, int) and key else f"{key}.{name}" if key else str(name)
        if isinstance(name, str):
            yield place, name
        yield from texts(child, place)


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with networks that, at any depth, neither download weights nor open a file of them."""
    return {key: node if key in OTHER_CLASSES else _without_weights(node) for key, node in config.items()}


def _without_weights(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _neutral(key, child) for key, child in node.items()}
    return [_without_weights(child) for child in node] if isinstance(node, list | tuple) else node


def _neutral(key: str, value: Any) -> Any:
    if key == "pretrained":
        return False
    return None if key == "weights" and isinstance(value, str) else _without_weights(value)

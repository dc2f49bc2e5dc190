"""A network that starts from another's weights: what fits is taken, and everything is accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from seglab import checkpoint, interop, trust
from seglab.errors import CheckpointError

log = logging.getLogger(__name__)


class LoadReport(NamedTuple):
    """What became of the tensors when a network was initialised from another's."""

    kept: list[str]
    new: list[str]
    dropped: list[str]


def init_from(
    model: nn.Module, path: str | Path, allow_nonfinite: bool = False, classes: Sequence[str] | None = None
) -> LoadReport:
    """Start from another network's weights: tensors of the same name and shape are loaded, and all are accounted for.

    A file of other code that :mod:`seglab.interop` knows is read under its own names of tensors.

    Args:
        classes: of the network, in their order. Where the file's differ the log says so: rows of a classifier fit by
            their number, whatever they stand for.

    Raises:
        CheckpointError: unreadable or damaged; not a single tensor fits.
    """
    path = checkpoint.locate(path)
    tensors, stored, _ = checkpoint.raw(path)
    trust.refuse_interpolations(stored, str(path))
    checkpoint.verify(tensors, stored, path, allow_nonfinite)
    tensors = interop.translated(tensors)
    own = model.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise CheckpointError(
            f"{path}: none of its {len(tensors)} tensors fits the network — found names such as "
            f"{', '.join(list(tensors)[:2]) or 'none'}, expected {', '.join(list(own)[:2])}; check backbone=, decoder= "
            "and classifier="
        )
    model.load_state_dict(fitting, strict=False)
    loaded = LoadReport(sorted(fitting), sorted(own.keys() - fitting.keys()), sorted(tensors.keys() - fitting.keys()))
    log.info("started from %s: %d tensors kept", path, len(loaded.kept))
    for kind, names in (("new (random)", loaded.new), ("dropped", loaded.dropped)):
        if names:
            log.info("  %d %s: %s", len(names), kind, checkpoint.grouped(names))
    warn_of_statistics(model, stored)
    theirs = stored["spec"].get("classes") if isinstance(stored, Mapping) and "spec" in stored else None
    if (
        classes is not None
        and theirs not in (None, list(classes))
        and any("classifier." in name for name in loaded.kept)
    ):
        first = next((pair for pair in zip(theirs, classes, strict=False) if len(set(pair)) > 1), ("more", "fewer"))
        log.warning("its classifier was trained for other classes or another order of them (%s is now %s)", *first)
    return loaded


def warn_of_statistics(model: nn.Module, stored: object) -> None:
    """Say where a file's network was made for images that are normalised otherwise."""
    config = stored.get("config") if isinstance(stored, Mapping) else None
    theirs = config.get("normalize") if isinstance(config, Mapping) else None
    ours = getattr(model, "normalise", None)
    if ours is None or not isinstance(theirs, Mapping):
        return
    for name in ("mean", "std"):
        value = theirs.get(name)
        if isinstance(value, list) and [float(x) for x in value] != [float(x) for x in getattr(ours, name)]:
            log.warning("it was trained with normalize.%s=%s; now it is %s", name, value, list(getattr(ours, name)))

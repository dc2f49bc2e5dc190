"""Checkpoints: written whole or not at all, read without running code, opened from the file alone.

A checkpoint is Lightning's, with one more key, plain data only::

    seglab: {format: 3, version, config: resolved configuration, spec: {name, classes, palette},
             training_parts: names, checksum: {network, training}}

An exported network is a folder with ``model.safetensors`` and the same record in ``config.json``. With weight
averaging, ``state_dict`` holds the averaged weights, so what is evaluated, opened and exported is the average.

The checksums find damage, not malice: one is over the deployed network's tensors (a checkpoint and its export have the
same), one over the rest that training goes on with, its heads included. What a stranger's file may do is the business
of :mod:`seglab.trust`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor, nn

from seglab import formats, trust, weightfile
from seglab.checksum import checksum
from seglab.checksum import tensors as tensors_in
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError, ConfigError
from seglab.runs import atomic
from seglab.version import __version__

log = logging.getLogger(__name__)

KEY = "seglab"
FORMAT = 3
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: formats.to_format_2, 2: formats.to_format_3}
"""Format n -> the function that makes a record of format n + 1 of one of format n."""

NETWORK = "task.model."
"""What the names of the network's tensors begin with in a checkpoint."""
NODES = ("loss", "task", "data", "augment", "evaluation", "trainer")
"""What the configuration in a record holds at least: every command that opens a file reads some of it."""


SHIPPED = "seglab:"
"""Before the name of a network that comes with the package, where a path is expected."""
WEIGHTS = Path(__file__).parent / "weights"


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk: a kill or a full disk leaves the old file or the new one; loading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, with its checksums where it describes itself; DiskFull where there is no room."""
        if KEY in checkpoint:
            parts = checkpoint[KEY]["training_parts"]
            sums = {
                "network": checksum(deployed(network_tensors(checkpoint), parts)), "training": rest(checkpoint, parts)
            }  # fmt: skip
            checkpoint[KEY]["checksum"] = sums
        with atomic.replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as data, whatever the caller asks for."""
        return read(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself."""

    path: Path
    config: dict[str, Any]
    spec: DatasetSpec
    version: str
    """The seglab that wrote it."""
    step: int
    """Optimiser steps taken."""
    training_parts: tuple[str, ...] = ()
    """Those of the network's parts that are not deployed."""
    checksum: str | None = None
    """Of the network's tensors, the same for a checkpoint and its export; None in files from before there was one."""


def read(path: str | Path, device: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, tensors and plain data only.

    Raises:
        CheckpointError: missing, empty, truncated, not a torch file, or holding objects that would have to run code.
    """
    content = weightfile.read(path, device, mmap)
    if "_instantiator" in str(content.get("hyper_parameters")):
        raise CheckpointError(
            f"{path} asks Lightning to build objects from it (_instantiator in its hyper_parameters): refused — "
            "expected a checkpoint written by seglab, or a plain state dict"
        )
    return formats.present_names(content, KEY)


def embed(
    checkpoint: dict[str, Any],
    config: Mapping[str, Any],
    spec: DatasetSpec,
    training_parts: Sequence[str],
    frozen: Mapping[str, str] | None = None,
) -> None:
    """Add to a checkpoint what is needed to open it alone.

    Args:
        training_parts: those of the network that are not deployed (:class:`seglab.tasks.base.Task`).
        frozen: checksums of the networks that it was taught by, which are not stored, by their keys.
    """
    checkpoint[KEY] = {**record(config, spec, training_parts), "frozen": dict(frozen or {})}


def record(config: Mapping[str, Any], spec: DatasetSpec, training_parts: Sequence[str]) -> dict[str, Any]:
    """The self-description, as plain data."""
    described = {"name": spec.name, "classes": list(spec.classes), "palette": [list(c) for c in spec.palette]}
    about = {"config": plain(config), "spec": described, "training_parts": list(training_parts)}
    return {"format": FORMAT, "version": __version__, **about}


def training_parts_of(stored: Any) -> tuple[str, ...]:
    """The parts of a network that its record says are not deployed; none of a file without a record."""
    names = stored.get("training_parts", ("heads",)) if isinstance(stored, Mapping) else ()
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def plain(value: Any) -> Any:
    """Mappings, lists and scalars only: what YAML, JSON and a safe unpickler agree on."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def migrate(stored: Any, path: Path) -> dict[str, Any]:
    """A self-description of any known format, in the present one.

    Raises:
        CheckpointError: there is none, or a newer seglab wrote it.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int) or stored["format"] < 1:
        raise CheckpointError(
            f"{path} does not describe its network (no '{KEY}' record) — expected a checkpoint of seglab.train or a "
            "folder of seglab.export; the weights alone can start a run with init_from="
        )
    if stored["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {stored['format']}, written by seglab {stored.get('version')} — this is seglab "
            f"{__version__}, which reads up to format {FORMAT}; upgrade with pip install -U seglab"
        )
    while stored["format"] < FORMAT:
        stored = MIGRATIONS[stored["format"]](stored)
    return stored


def _description(stored: Any, step: int, path: Path) -> Description:
    """The typed self-description.

    Raises:
        CheckpointError: none, of a newer seglab, incomplete, out of range, or with anything to be resolved in it.
    """
    stored = migrate(stored, path)
    try:
        spec, config = stored["spec"], dict(stored["config"])
        if missing := [node for node in NODES if not isinstance(config.get(node), Mapping)]:
            raise KeyError(f"config.{missing[0]}")
        trust.refuse_interpolations(config, str(path))
        palette = tuple((int(r), int(g), int(b)) for r, g, b in spec["palette"])
        described = DatasetSpec(str(spec["name"]), tuple(map(str, spec["classes"])), palette)
        sums = dict(stored.get("checksum") or {})
        return Description(
            path, config, described, str(stored["version"]), int(step), training_parts_of(stored), sums.get("network")
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its '{KEY}' record is damaged ({error}) — expected config, spec and version; the weights alone "
            "can start a run with init_from="
        ) from error


def locate(path: str | Path) -> Path:
    """The file behind a path: itself, an exported folder's weights, or a run folder's best (else last) checkpoint.

    ``seglab:NAME`` is a network that comes with the package.

    Raises:
        CheckpointError: a folder or name without one.
    """
    if str(path).startswith(SHIPPED):
        name = str(path).removeprefix(SHIPPED)
        there = sorted(each.name for each in WEIGHTS.iterdir() if (each / "model.safetensors").is_file())
        if name not in there:
            raise CheckpointError(f"{path}: no network of this name comes with seglab — it brings {', '.join(there)}")
        return WEIGHTS / name / "model.safetensors"
    path = Path(path)
    if path.is_dir():
        for inside in ("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
            if (path / inside).is_file():
                return path / inside
        raise CheckpointError(
            f"{path} holds no network — expected model.safetensors (an exported folder) or checkpoints/ (a run folder)"
        )
    return path


def open_file(
    path: str | Path, device: Any = "cpu", allow_nonfinite: bool = False
) -> tuple[dict[str, Tensor], Description]:
    """A network's tensors under their own names, and its description.

    Raises:
        CheckpointError: unreadable, damaged, or with weights that are not finite (unless they are allowed).
    """
    path = locate(path)
    tensors, stored, step = raw(path, device)
    description = _description(stored, step, path)
    verify(tensors, stored, path, allow_nonfinite)
    return tensors, description


def describe(path: str | Path) -> Description:
    """What a checkpoint, exported folder or run folder says about itself; the tensors are not looked at."""
    path = locate(path)
    _, stored, step = raw(path, mmap=True)
    return _description(stored, step, path)


def described(content: Mapping[str, Any], path: Path) -> Description:
    """The description in a checkpoint that :func:`read` has opened."""
    return _description(content.get(KEY), content.get("global_step", 0), path)


def raw(path: Path, device: Any = "cpu", mmap: bool = False) -> tuple[dict[str, Tensor], Any, int]:
    """A file's tensors (none of a safetensors file with ``mmap``), its record as it stands there, and its step."""
    if path.suffix == ".safetensors":
        stored = atomic.read_json(path.with_name("config.json"))
        tensors = {} if mmap else weightfile.read_safetensors(path, device)
        return formats.present_tensors(tensors, stored), stored, stored.get("step", 0)
    content = read(path, device, mmap)
    return network_tensors(content), content.get(KEY), content.get("global_step", 0)


def verify(tensors: Mapping[str, Tensor], stored: Any, path: Path, allow_nonfinite: bool = False) -> None:
    """Refuse a network's tensors that are not those that were written, or no numbers.

    Args:
        stored: the record beside them, if there is one; a file of another origin has no checksum to compare with.

    Raises:
        CheckpointError: says which.
    """
    sums = stored.get("checksum") if isinstance(stored, Mapping) else None
    if isinstance(sums, Mapping) and sums.get("network") not in (
        None,
        checksum(deployed(tensors, training_parts_of(stored))),
    ):
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those that were written (the checksum differs) — take it from its "
            "source again, or use another checkpoint"
        )
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad and not allow_nonfinite:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity: {grouped(bad)} — expected finite "
            "weights; take an earlier checkpoint, or set allow_nonfinite=true to use this one nevertheless"
        )


def network_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint, or in a plain state dict of another origin, without wrappers' prefixes."""
    named = {normalise(name): value for name, value in weightfile.state_of(content).items()}
    if KEY in content or "pytorch-lightning_version" in content:  # a training module's: the network is its task's
        return {name.removeprefix(NETWORK): value for name, value in named.items() if name.startswith(NETWORK)}
    return named


def deployed(tensors: Mapping[str, Tensor], training_parts: Collection[str]) -> dict[str, Tensor]:
    """Those of a network's tensors that a prediction is made with: all but those of the parts that only train."""
    return {name: value for name, value in tensors.items() if not is_of_parts(name, training_parts)}


def is_of_parts(name: str, parts: Collection[str]) -> bool:
    """Whether a network's tensor belongs to one of these parts."""
    return name.partition(".")[0] in parts


def rest(content: Mapping[str, Any], training_parts: Collection[str]) -> str:
    """The checksum of all tensors of a checkpoint but the deployed network's: optimiser, averages, heads."""
    network = f"state_dict.{NETWORK}"
    found = {name: normalise(name.removeprefix(network)) for name, _ in tensors_in(content)}
    kept = {name for name, own in found.items() if not name.startswith(network) or is_of_parts(own, training_parts)}
    return checksum({name: value for name, value in tensors_in(content) if name in kept})


def normalise(name: str) -> str:
    """A parameter's name without what torch.compile and DistributedDataParallel put into it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load all tensors, and refuse any that is missing, unknown or of another shape."""
    compare(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)


def compare(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a file's tensors that are not, name by name and shape by shape, a network's own.

    Raises:
        CheckpointError: lists by module what is missing, unknown or of another shape.
    """
    shapes = [
        f"{name} {list(tensors[name].shape)} here {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    missing, unknown = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    problems = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {grouped(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(
            f"{path} does not fit the network: {listed} — expected the tensors of this very configuration; "
            "init_from= loads what fits"
        )


def grouped(names: Any) -> str:
    """Names counted by their module, for messages: ``decoder.fuse (4), backbone (2)``."""
    names = sorted(names)
    if len(names) <= 4:
        return ", ".join(names)
    modules: dict[str, int] = {}
    for name in names:
        module = ".".join(name.split(" ")[0].split(".")[:2])
        modules[module] = modules.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in modules.items())


def export_safetensors(model: nn.Module, description: Description, folder: str | Path) -> Path:
    """Write ``model.safetensors`` and ``config.json``: weights any framework reads, and how to build the network."""
    from safetensors.torch import save

    folder = Path(folder)
    state = deployed(model.state_dict(), description.training_parts)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    stored = record(trust.without_weights(description.config), description.spec, description.training_parts)
    with atomic.replacing(folder / "model.safetensors") as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    sums = {"checksum": {"network": checksum(tensors)}}
    atomic.write_json(folder / "config.json", {**stored, **sums, "step": description.step})
    return folder

"""GFLOPs and latency of a table's networks, measured side by side and kept in ``SWEEP/cost.json``.

Runs that differ only in losses, seeds or numbers like a temperature share a network, which is measured once.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab import formats, timing, trust
from seglab.errors import CheckpointError, ConfigError
from seglab.multirun.record import is_number
from seglab.runs import atomic

if TYPE_CHECKING:
    from seglab.report.collect import Run, Sweep

FILE = "cost.json"
BESIDE = (*trust.OTHER_CLASSES, "optim", "trainer")
"""Nodes of objects that are no parts of a network."""
COSTLESS = (
    "tau", "dropout", "drop_path_rate", "pretrained", "weights", "frozen_norm", "grad_checkpointing", "detach_means",
    "detach_coarse", "oracle_context",
)  # fmt: skip
"""Keys of a network's configuration that no forward pass in evaluation mode takes longer for."""


@dataclass(frozen=True)
class Cost:
    """Of one evaluation pass over one image."""

    gflops: float
    """A multiply-accumulate is two."""
    latency: float
    """Seconds, median of the rounds."""
    setting: str = ""
    """Image size, classes, device."""


def measure(
    sweep: Sweep, device: str = "cpu", size: tuple[int, int] | None = None, rounds: int = 10, trusted: bool = False
) -> tuple[dict[Path, Cost], list[str]]:
    """The costs by run folder, and a line for each network that could not be measured.

    One that is missing in ``cost.json`` has all of them measured again, in turns: only times of one session compare.

    Args:
        size: height and width; the runs' crop by default, 512x512 where they have none.
        trusted: build whatever the runs' configurations name, not only classes of seglab and torch.
    """
    networks: dict[str, Run] = {}
    key_of: dict[Path, str] = {}
    name = device_name(device)
    measured = [run for run in sweep.runs if not refined(run)]
    sizes = {run.folder: size or crop(run.config) for run in measured}
    for run in measured:
        key = network_key(run, sizes[run.folder], name)
        key_of[run.folder] = key
        networks.setdefault(key, run)
    kept = read(sweep.folder / FILE)
    notes: list[str] = []
    if count := len(sweep.runs) - len(measured):
        notes.append(f"{count} runs: cost not measured, their predictor= does more than one pass of one network")
    if not networks.keys() <= kept.keys():
        by_size: dict[tuple[tuple[int, int], int], dict[str, Run]] = {}
        for key, run in networks.items():
            by_size.setdefault((sizes[run.folder], class_count(run)), {})[key] = run
        for (shape, classes), runs in by_size.items():
            found, more = measure_networks(runs, shape, classes, device, rounds, name, trusted)
            kept |= found
            notes += more
        try:
            costs = {k: {"gflops": c.gflops, "latency": c.latency, "setting": c.setting} for k, c in kept.items()}
            atomic.write_json(sweep.folder / FILE, {"format": 1, "networks": costs})
        except OSError as error:
            notes.append(f"{FILE} could not be written ({error.strerror}): the costs will be measured again")
    return {folder: kept[key] for folder, key in key_of.items() if key in kept}, notes


def measure_networks(
    runs: Mapping[str, Run], size: tuple[int, int], classes: int, device: str, rounds: int, name: str, trusted: bool
) -> tuple[dict[str, Cost], list[str]]:
    """The costs of networks that see the same images."""
    import torch

    from seglab import build

    place, modules, notes = torch.device(device), {}, []
    for key, run in runs.items():
        try:
            config = formats.config_of_today(run.config)
            if not trusted:
                trust.check(config, ["task"], run.folder.name)
                kind = build.task_class(config)
                built = (*kind.PARTS, *kind.TRAINING_PARTS, "metrics", "evaluation")
                trust.check(config, built, run.folder.name)
            terms = build.evaluated_terms(config["loss"], None if trusted else run.folder.name)
            config = {**trust.without_weights(config), "loss": terms, "optim": None}
            modules[key] = timing.build_configured(config, classes).to(place)
        except CheckpointError as error:
            said = str(error).split(": not built")[0]
            notes.append(f"{run.folder.name}: cost not measured ({said}; --trust builds it)")
        except Exception as error:  # whatever an old configuration lacks: a cost must not take the table along
            notes.append(f"{run.folder.name}: cost not measured ({brief(error)})")
    if not modules:
        return {}, notes
    try:
        batch = timing.random_batch(size, 1, classes, place)
        found = timing.measure(modules, batch, rounds, warmup=2, steps=False)
    except Exception as error:  # out of memory, or a size that a network does not take
        return {}, [*notes, f"costs not measured at {size[0]}x{size[1]} ({brief(error)}): choose another --size"]
    threads = f", {torch.get_num_threads()} threads" if place.type == "cpu" else ""
    setting = f"one image of {size[0]}x{size[1]}, {classes} classes, {name}{threads}, torch {torch.__version__}"
    return {key: Cost(c.gflops, statistics.median(c.forward), setting) for key, c in found.items()}, notes


def read(path: Path) -> dict[str, Cost]:
    """What was measured before; empty where nothing can be read."""
    kept = {}
    networks = atomic.read_json(path).get("networks")
    for key, about in networks.items() if isinstance(networks, dict) else ():
        numbers: list[Any] = [about.get(name) for name in ("gflops", "latency")] if isinstance(about, dict) else [None]
        if all(is_number(value) and value >= 0 for value in numbers) and isinstance(about.get("setting"), str):
            kept[key] = Cost(float(numbers[0]), float(numbers[1]), about["setting"])
    return kept


def refined(run: Run) -> bool:
    """Whether it is an evaluation whose predictor does something to the network's scores."""
    predictor = run.metrics.get("predictor")
    return isinstance(predictor, Mapping) and predictor.get("refine") is not None


def network_key(run: Run, size: Sequence[int], device: str) -> str:
    """A hash of the network, what it sees and where."""
    nodes = {name: node for name, node in run.config.items() if isinstance(node, Mapping) and "_target_" in node}
    network = {name: costly(node) for name, node in nodes.items() if name not in BESIDE}
    machine = platform.node()  # times of two machines do not mix
    text = json.dumps([network, list(size), class_count(run), device, machine], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def costly(node: Any) -> Any:
    """A configuration without what costs nothing."""
    if isinstance(node, Mapping):
        return {str(key): costly(value) for key, value in node.items() if key not in COSTLESS}  # sortable
    return [costly(value) for value in node] if isinstance(node, list) else node


def crop(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that training saw."""
    augment = config.get("augment")
    given = augment.get("crop") if isinstance(augment, Mapping) else None
    sides = given if isinstance(given, list) and len(given) == 2 else [512, 512]
    fine = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    return (sides[0], sides[1]) if fine else (512, 512)


def class_count(run: Run) -> int:
    """Of the data set, as the run's results have it."""
    lists = [value for key, value in run.metrics.items() if key.endswith("/IoU") and isinstance(value, list)]
    return len(lists[0]) if lists else len(run.classes()) or 19


def device_name(device: str) -> str:
    """What a footnote says: cpu, or the name of the GPU.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "cpu":
        return device
    import torch

    try:
        torch.zeros(1, device=device)
        return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"--device {device} cannot be used ({brief(error)}) — expected cpu or cuda") from None


def brief(error: Exception) -> str:
    """An error in a line."""
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])

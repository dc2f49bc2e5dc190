"""What a run is within its project: what was chosen, what it varies, and the names that follow from that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from seglab.multirun import record

GROUPS = ("data", "backbone", "decoder", "classifier")
"""The config groups whose choices name an experiment."""


@dataclass(frozen=True)
class RunLabels:
    """One run, as a list of runs should show it."""

    choices: dict[str, str]
    """The option chosen in each config group."""
    factors: dict[str, Any]
    """What it varies within its sweep; empty for a run of its own."""
    name: str
    """``tau=10, seed=0`` in a sweep; else the run folder's, with its parent's where that is a time only."""
    group: str | None
    """The sweep's folder; else ``data-backbone-decoder-classifier``, which holds the repetitions of one experiment."""
    kind: str
    """The ablation, the experiment, or ``train``."""
    tags: list[str]
    """Choices of :data:`GROUPS`, and the ablation."""

    @property
    def facts(self) -> dict[str, Any]:
        """``choices/<group>`` and ``factors/<key>``; dots in keys are slashes, since W&B reads a dot as nesting."""
        found: dict[str, Any] = {f"choices/{key}": value for key, value in self.choices.items()}
        return found | {f"factors/{key.replace('.', '/')}": value for key, value in self.factors.items()}


def describe(run_dir: str | Path) -> RunLabels:
    """The job whose folder this is, as far as Hydra and the sweep's folder know it."""
    folder = Path(run_dir).resolve()
    choices, swept = hydra_choices()
    factors = record.factors_of(folder)
    labels = [choices[key] for key in GROUPS if key in choices]
    ablation, experiment = choices.get("ablation"), choices.get("experiment")
    by_time = re.match(r"\d{8}-\d{6}", folder.name)
    return RunLabels(
        choices=choices,
        factors=factors,
        name=record.label(factors) if factors else "/".join(folder.parts[-2:]) if by_time else folder.name,
        group=folder.parent.name if factors or swept else "-".join(labels) or None,
        kind=ablation or experiment or "train",
        tags=list(dict.fromkeys([*labels, *([ablation] if ablation else [])])),
    )


def hydra_choices() -> tuple[dict[str, str], bool]:
    """The option chosen in each of our config groups, and whether the job is one of many; nothing outside Hydra."""
    if not HydraConfig.initialized():
        return {}, False
    hydra = HydraConfig.get()
    choices = {key: value for key, value in hydra.runtime.choices.items() if not key.startswith("hydra/")}
    return {key: str(value) for key, value in choices.items() if value is not None}, hydra.mode == RunMode.MULTIRUN


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The numbers and words of a nested configuration under keys like ``classifier/tau``; no paths of classes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, bool | int | float | str) and not str(key).startswith("_"):
            found[f"{prefix}{key}"] = value
    return found

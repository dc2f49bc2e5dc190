"""From a command to its jobs: what varies, what is fixed, and the folder that each job always gets.

A sweep varies override keys (``classifier.tau=5,10,15``, from the command line or ``hydra.sweeper.params``) and, in an
ablation file, ``sweep.variants``: named lists of overrides, one row of the paper's table each. Every combination is a
job. Its folder is named by its choices and by a hash of its **resolved** configuration, so that the same command finds
the same folders again, and a changed default does not pass for a finished job.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from seglab import cli, options
from seglab.errors import ConfigError
from seglab.multirun import record

VARIANT = "variant"
"""The factor whose values are an ablation file's named rows."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    factors: dict[str, Any]
    """What it varies: ``{"variant": "SEPA", "seed": 0}``."""
    overrides: list[str]
    """Everything it overrides, fixed choices included."""
    config: dict[str, Any] = field(repr=False)
    """Resolved, without ``sweep`` and with an empty ``run_dir``."""

    @property
    def name(self) -> str:
        """The folder: choices, and a hash of the resolved configuration."""
        choices = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.factors.items())
        return f"{safe_name(choices)}-{fingerprint(self.config)}"


@dataclass(frozen=True)
class Axes:
    """What a command varies and what it fixes."""

    varied: dict[str, dict[str, Any]]
    """Override key -> its values: as written, and as Python sees them."""
    fixed: list[str]


def axes(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None) -> Axes:
    """Split overrides into varied and fixed ones; the command line (``arguments``) wins over the file (``params``).

    Raises:
        ConfigError: a continuous range, which only a search can vary.
    """
    parser = OverridesParser.create(config_loader=loader)
    given: dict[str, Override] = {}
    for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments]):
        given[override.get_key_element()] = override
    varied, fixed = {}, []
    for key, override in given.items():
        if not override.is_sweep_override():
            if key == "seed" or key in params:  # one value of what is an axis for others: the job's name has it too
                varied[key] = {override.get_value_element_as_str(): override.value()}
            else:
                fixed.append(override.input_line or "")
        elif override.is_discrete_sweep():
            values = zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True)
            varied[key] = {text: plain if isinstance(plain, int | float | bool) else text for text, plain in values}
        else:
            raise ConfigError(
                f"{override.input_line} is a range of numbers — expected a list of values (a,b,c); to search in a "
                "range, add search=optuna"
            )
    return Axes(varied, fixed)


def jobs(
    axes: Axes,
    variants: Mapping[str, Sequence[str]],
    compose: Callable[[list[str]], DictConfig],
    command: str = "train",
) -> list[Job]:
    """Every combination, composed. The seed varies slowest: the whole table is there once after a fraction of the time.

    Args:
        variants: named lists of overrides.
        compose: task overrides -> configuration.
        command: whose jobs they are, a key of :data:`RESOLVERS`.

    Raises:
        ConfigError: a variant overrides what is varied beside it.
    """
    for name, overrides in variants.items():
        if both := {key_of(override) for override in overrides} & {key.lstrip("+") for key in axes.varied}:
            raise ConfigError(
                f"the variant {name} sets {', '.join(sorted(both))}, which is varied as well: its row would be another "
                "variant's — give one value, or leave the variant out with sweep.only=[…]"
            )
    choices: list[list[tuple[str, Any, list[str]]]] = []
    if variants:
        choices.append([(VARIANT, name, list(overrides)) for name, overrides in variants.items()])
    keys = sorted(axes.varied, key=lambda key: key == "seed")
    choices += [[(key, value, [f"{key}={text}"]) for text, value in axes.varied[key].items()] for key in keys]
    if "seed" in keys:
        choices.insert(0, choices.pop())
    found = []
    for combination in itertools.product(*choices):
        factors = {key.lstrip("+"): value for key, value, _ in combination}
        if "seed" in factors:
            factors["seed"] = factors.pop("seed")  # last in names and tables
        own = merge(*(overrides for _, _, overrides in combination))
        overrides = merge(axes.fixed, own)
        try:
            config = RESOLVERS[command](compose(overrides))
        except Exception as error:
            said = ", ".join(f"{key}={value}" for key, value in factors.items()) or "one job"
            error.args = (f"the job {said}: {error}",)
            raise
        found.append(Job({**factors, "seed": config["seed"]}, overrides, config))
    return found


def merge(*lists: Sequence[str]) -> list[str]:
    """Overrides one after another; a later one replaces an earlier one of the same key, which Hydra would refuse."""
    by_key: dict[str, str] = {}
    for override in itertools.chain(*lists):
        key = key_of(override)
        by_key.pop(key, None)
        by_key[key] = override
    return list(by_key.values())


def key_of(override: str) -> str:
    """The key that an override is about."""
    return override.split("=", 1)[0].lstrip("+~")


def containers(cfg: DictConfig, folder_key: str) -> dict[str, Any]:
    """A job's configuration as plain containers, with nothing that names its folder."""
    with open_dict(cfg):
        cfg.pop("hydra", None)
        cfg[folder_key] = ""
    return cli.to_containers(cfg)


def training(cfg: DictConfig) -> dict[str, Any]:
    """The configuration of a job of ``seglab.train``.

    Raises:
        ConfigError: a key that nothing reads, or a job that is to replace what it is to go on with.
    """
    from seglab import build  # imports torch, which the rest of a plan does not need

    config = containers(cfg, "run_dir")
    kind = build.task_class(config)
    options.check(config, options.TRAIN | options.parts(*kind.PARTS, *kind.TRAINING_PARTS))
    if config["overwrite"]:
        raise ConfigError(
            "overwrite=true in a multirun, whose jobs are skipped when they are done — to have them again, choose "
            "another hydra.sweep.dir, or delete their folders"
        )
    for key in ("sweep", "search"):
        config.pop(key, None)
    return config


def evaluation(cfg: DictConfig) -> dict[str, Any]:
    """The configuration of a job of ``seglab.evaluate``, with the seed of the network's run.

    Size and time of the files of networks make a network that is trained again under the same name another job.

    Raises:
        UserError: a key that nothing reads, or no network under its name.
    """
    from seglab import checkpoint

    config = containers(cfg, "output")
    options.check(config, options.EVALUATE)
    config.pop("sweep")
    file = checkpoint.locate(config["ckpt"])
    if config["seed"] is None:
        config["seed"] = checkpoint.describe(file).config.get("seed", 0)
    stats = [each.stat() for each in (file, *map(checkpoint.locate, networks(config["predictor"])))]
    return {**config, "files": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}


RESOLVERS: dict[str, Callable[[DictConfig], dict[str, Any]]] = {"train": training, "evaluate": evaluation}
"""What makes a job's configuration, by the command that does the job."""


def networks(node: Any) -> Iterator[str]:
    """The paths of the networks that a configuration opens."""
    if isinstance(node, Mapping):
        if node.get("_target_") == "seglab.load" and node.get("path"):
            yield node["path"]
        for each in node.values():
            yield from networks(each)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what a run computes: not of where it logs to or how many processes load its data."""
    kept = {key: value for key, value in config.items() if key not in record.WITHOUT_EFFECT}
    kept["data"] = {key: value for key, value in config["data"].items() if key not in record.WITHOUT_EFFECT_ON_DATA}
    return config_hash(kept)


def config_hash(value: Any) -> str:
    """Eight hex digits of plain containers."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def safe_name(text: str, longest: int = 100) -> str:
    """Text as a part of a folder's name that needs no quoting."""
    name = re.sub(r"[^\w=,.+-]+", "_", text).strip("_.") or "job"
    return name if len(name) <= longest else f"{name[: longest - 9]}-{config_hash(name)}"


def sweep_name(axes: Axes, params: Mapping[str, Any], ablation: str | None, data: str | None) -> str:
    """The same for the same question: the ablation (or what is varied), the data set, and a hash of what is fixed.

    More values of a varied key, or more seeds, are the same question and join the earlier jobs.
    """
    extra = [key for key in axes.varied if key != "seed" and not (ablation and key in params)]
    parts = [ablation] if ablation else []
    parts += [key.lstrip("+").rsplit(".", 1)[-1] for key in extra] or ([] if ablation else ["seeds"])
    ignored = ("seed=", "resume=", "logger=", "logger.", "sweep.", "ablation=", "data=", "launcher=")
    fixed = sorted(override for override in axes.fixed if not override.lstrip("+~").startswith(ignored))
    of = f"-{data}" if data else ""  # an evaluation's checkpoint brings its data
    return safe_name("+".join(parts)) + of + (f"-{config_hash(fixed)}" if fixed else "")

"""The files of a sweep's folder, which may be damaged, foreign or a stranger's: read, or named and refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from seglab import trust
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.multirun import record
from seglab.multirun.record import is_number, shown
from seglab.scores import EARLIER, Known, name_of

Scalar: TypeAlias = str | int | float | bool | None

COUNTS = frozenset({"parameters", "trained", "step", "classes"})
"""Numbers in ``metrics.json`` that are no scores."""
DIFFERENCES = frozenset({"context_gain", "context_gap"})
"""Scores in percent that are differences of fractions, and may be below zero."""
LARGEST_CONFIG, DEEPEST_CONFIG = 100_000, 100
"""Values in a run's configuration, and mappings in mappings; a thousand and ten are usual. YAML's aliases can make more
than any memory holds."""


def read_plan(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """``sweep.json``, empty where there is none, and a line for everything in it that cannot be used.

    Raises:
        ConfigError: no such folder.
        DataError: it cannot be read, or none of its jobs can be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder — give the folder of a multirun, such as runs/sweeps/NAME")
    path = folder / record.FILE
    if not path.exists():
        return {}, []
    try:
        content = read_object(path)
        plan, problems = record.parse(content)
        if content.get("jobs") and not plan["jobs"]:
            raise DataError(f"{record.FILE} has no job that can be used ({problems[-1]})")
    except record.NewerPlan as error:
        raise DataError(f"{folder}: {error}") from None
    except DataError as error:
        raise DataError(
            f"{folder}: {error} — type the sweep's command again, which writes it anew, or delete {path} to have the "
            "factors read from the runs' overrides"
        ) from None
    return plan, problems


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: missing or broken.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise DataError(f"{path.name} cannot be read ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds no JSON object")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A run's resolved configuration.

    Raises:
        DataError: missing or broken.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = path.read_text(), 0
        for event in yaml.parse(text, loader):  # building deep nests overflows the C loader's stack
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_CONFIG:
                raise ValueError(f"nested more than {DEEPEST_CONFIG} deep")
        content = yaml.load(text, loader)
    except FileNotFoundError:
        raise DataError(f"no {path.name}") from None
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:  # TypeError: a list as a key
        raise DataError(f"{path.name} cannot be read ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds no configuration")
    left, count = [content], 0
    while left:
        node: Any = left.pop()
        left += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        if (count := count + 1) > LARGEST_CONFIG:
            raise DataError(f"{path.name} holds more than {LARGEST_CONFIG} values, or itself")
    try:
        trust.refuse_interpolations(content, path.name)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    return content


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def impossible(metrics: Mapping[str, Any], known: Known = EARLIER) -> str | None:
    """The first value that cannot be what its score says, with what it should be; None where all can.

    Null stands for what could not be computed.
    """
    for key, value in metrics.items():
        score, name = known.find(key), name_of(key)
        # One for each class; what the run is about is one number.
        several = score is not None and score != known.headline and isinstance(value, list)
        for each in value if several else [value]:
            if each is None:
                continue
            fine = is_number(each)
            lowest = -1 if score is not None and score.name in DIFFERENCES else 0
            if score is not None and score.percent and not (fine and lowest <= each <= 1):
                what = f"{'holds' if several else 'is'} {shown(each)}"
                return f"{key} {what} — expected a fraction from {lowest} to 1"
            if name in COUNTS and not (fine and each >= 0):
                return f"{key} is {shown(each)} — expected a number, 0 or more"
            if (score is not None or isinstance(each, float)) and not fine:
                return f"{key} is {shown(each)} — expected a finite number"
    return None


def overrides(folder: Path) -> dict[str, Scalar]:
    """``overrides.txt`` as keys and values; lists and mappings stay text."""
    try:
        lines = (folder / "overrides.txt").read_text().splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.strip().lstrip("+~").partition("=") for line in lines if line.strip())
    return {key: parse(value) for key, _, value in pairs}


def parse(text: str) -> Scalar:
    """A scalar as YAML reads it, also ``1e-3``; anything else stays text."""
    import yaml

    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and value[:1] in "+-.0123456789":
            value = float(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # a date that does not exist is a ValueError
        return text
    return value if record.is_scalar(value) else text

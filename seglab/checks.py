"""Refusals of options out of range, in one voice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seglab.errors import ConfigError


def one_of(key: str, value: str, choices: Sequence[str]) -> str:
    """The value, if it is a legal choice.

    Raises:
        ConfigError: it is not.
    """
    if value not in choices:
        raise ConfigError(f"{key}={value} — expected one of {', '.join(choices)}")
    return value


def within(key: str, value: float, low: float, high: float = math.inf, open_low: bool = False) -> float:
    """The value, if it is a finite number from low (excluded with ``open_low``) to high.

    Raises:
        ConfigError: it is not.
    """
    if not (math.isfinite(value) and (low < value if open_low else low <= value) and value <= high):
        bound = f"{'>' if open_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
        raise ConfigError(f"{key}={value} — expected a finite number {bound}")
    return value

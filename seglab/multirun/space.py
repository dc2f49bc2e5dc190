"""What a search varies: Hydra's grammar of overrides as Optuna's distributions.

::

    tau=choice(5,10,15)  tau=5,10,15             one of these
    batch_size=range(4,17,4)                     4, 8, 12, 16
    weight=interval(0.1,2)                       any number in between
    lr=tag(log,interval(1e-4,1e-2))              the same, evenly by its logarithm
    width=int(interval(8,64))  tag(int,...)      whole numbers, both ends included
    seed=3  classifier=cac                       fixed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from seglab.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 6
"""Of a number between bounds: what runs is what names, tables and command lines say."""
EXAMPLE = "'optim.optimizer.lr=tag(log,interval(1e-4,1e-2))'"


@dataclass(frozen=True)
class Parameter:
    """One key that the search varies."""

    key: str
    """As it is overridden: with a ``+`` where it adds."""
    written: str
    distribution: BaseDistribution
    choices: dict[str, Any]
    """Of a choice: its values as written (which Optuna knows them by), and as Python sees them. Otherwise empty."""

    @property
    def name(self) -> str:
        """The configuration key."""
        return self.key.lstrip("+")

    @property
    def first(self) -> Any:
        """A value that Optuna might suggest."""
        return next(iter(self.choices), getattr(self.distribution, "low", None))

    def value(self, suggested: Any) -> Any:
        """What Optuna suggested, as it stands in tables: a number with six digits, or a choice."""
        if self.choices:
            return self.choices[suggested]
        if isinstance(suggested, int):
            return suggested
        return min(max(float(f"{suggested:.{DIGITS}g}"), self.distribution.low), self.distribution.high)  # type: ignore[attr-defined]

    def override(self, suggested: Any) -> str:
        """What Optuna suggested, for Hydra."""
        return f"{self.key}={suggested if self.choices else self.value(suggested)}"


@dataclass(frozen=True)
class Space:
    """What a command varies and what it fixes."""

    parameters: dict[str, Parameter]
    fixed: list[str]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """For ``Study.ask``."""
        return {name: parameter.distribution for name, parameter in self.parameters.items()}

    def overrides(self, suggested: Mapping[str, Any]) -> list[str]:
        """Everything that a trial overrides."""
        return [*self.fixed, *self.varied(suggested)]

    def varied(self, suggested: Mapping[str, Any]) -> list[str]:
        """What a trial chose."""
        return [parameter.override(suggested[name]) for name, parameter in self.parameters.items()]

    def values(self, suggested: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial chose, by key."""
        return {name: parameter.value(suggested[name]) for name, parameter in self.parameters.items()}


def space(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """Split overrides into what is searched and what is fixed; ``arguments`` win over ``params``.

    Raises:
        ConfigError: nothing to search, a seed among it, or a range that has no values.
    """
    parser = OverridesParser.create(config_loader=loader)
    given: dict[str, Override] = {}
    for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments]):
        given[override.get_key_element()] = override
    parameters, fixed = {}, []
    for key, override in given.items():
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
            continue
        if key == "seed":
            raise ConfigError(
                f"{override.input_line} in a search: it would choose the luckiest seed — fix it (seed=0), and repeat "
                "what was found with others (-m seed=0,1,2)"
            )
        found = Parameter(key, override.get_value_string(), *distribution(override))
        parameters[found.name] = found
    if not parameters:
        raise ConfigError(f"nothing to search — give a range or a choice to at least one key, e.g. {EXAMPLE}")
    return Space(parameters, fixed)


def distribution(override: Override) -> tuple[BaseDistribution, dict[str, Any]]:
    """The distribution of a swept override, and a choice's values.

    Raises:
        ConfigError: no values in it, an unknown tag, or a logarithm that cannot be.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    line, swept = override.input_line, override.value()
    tags = set(getattr(swept, "tags", ()))
    if unknown := tags - ({"log", "int"} if isinstance(swept, RangeSweep | IntervalSweep) else set()):
        raise ConfigError(f"{line}: tag {', '.join(sorted(unknown))} — expected log or int, on a range or an interval")
    log = "log" in tags
    step: float | None = None
    if isinstance(swept, RangeSweep):
        values = numbers(swept)
        low, high, step = min(values, default=0), max(values, default=-1), abs(swept.step)
        whole = all(isinstance(value, int) for value in values)
        if log and (not whole or step != 1):
            raise ConfigError(f"{line}: a logarithmic range has whole numbers and step 1 — expected interval(…)")
    elif isinstance(swept, IntervalSweep):
        assert swept.start is not None
        assert swept.end is not None
        low, high = swept.start, swept.end
        whole = "int" in tags or isinstance(low, int)
        if whole:
            low, high, step = math.ceil(low), math.floor(high), 1
    else:
        texts = dict(written(override))
        if not texts:
            raise ConfigError(f"{line}: no values to choose from — expected choice(a,b,c)")
        return CategoricalDistribution(list(texts)), texts
    if not low <= high:
        raise ConfigError(f"{line}: no values in it — expected the lower bound first, and below the upper one")
    if log and low <= 0:
        raise ConfigError(f"{line}: a logarithm needs numbers above zero — raise the lower bound, or leave out log")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1)), {}
    return FloatDistribution(low, high, log=log, step=step), {}


def numbers(swept: RangeSweep) -> list[int] | list[float]:
    """A range's values, without the last digits that adding up a step leaves behind."""
    if swept.step == 0:
        return []
    return [value if isinstance(value, int) else float(f"{value:.12g}") for value in swept.range()]


def written(override: Override) -> list[tuple[str, Any]]:
    """A choice's values in their own order: as written, and as tables show them."""
    swept = override.value()
    if getattr(swept, "shuffle", False):
        swept.shuffle = False  # type: ignore[union-attr]  # the search has an order of its own
    pairs = zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True)
    return [(text, plain if isinstance(plain, int | float | bool) else text) for text, plain in pairs]

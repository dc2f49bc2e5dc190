"""Scores: what a number is called, which direction of it is better, in which unit it is read; and a run's record of it.

A key is ``STAGE/NAME[/detail]`` as in ``metrics.json`` and the loggers: ``test/mIoU``, ``val/loss``, ``best/NLL``,
``val/ECE/tau_5``. ``best/NAME`` is the best value of ``val/NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = "scores.json"
"""A run's record of its scores: ``{format, headline, scores: {name: {name, direction, unit}}}``."""
FORMAT = 1


@dataclass(frozen=True)
class Score:
    """A number that says how good a network is: what it is called, which direction is better, how it is written.

    The direction and the unit of everything that sweeps, checkpoints, searches, tables and plots show are read from
    here; no code derives them from a name.
    """

    name: str
    """As in ``metrics.json``, without the stage: ``mIoU`` of ``test/mIoU``."""
    direction: Literal["max", "min"] = "max"
    """``max``: more is better; ``min``: less is."""
    unit: str = ""
    """``percent``: a fraction from 0 to 1 that is shown times 100; anything else is written behind the number."""

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.direction == "min"

    @property
    def percent(self) -> bool:
        """Whether it is a fraction that is shown in percent."""
        return self.unit == "percent"

    @property
    def scale(self) -> float:
        """What values are multiplied with to be shown."""
        return 100.0 if self.percent else 1.0

    @property
    def sign(self) -> str:
        """The unit as it is written behind a number: ``%``, ``nats``, or nothing."""
        return "%" if self.percent else self.unit

    def better(self, value: float, other: float) -> bool:
        """Whether one value is better than another."""
        return value < other if self.lower else value > other

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return min(values) if self.lower else max(values)

    def text(self, value: float) -> str:
        """A value in a sentence, with its unit: ``35.20 %``, ``0.4821 nats``, ``0.4821``."""
        number = f"{self.scale * value:.2f}" if self.percent else f"{value:.4g}"
        return f"{number} {self.sign}".rstrip()

    def record(self) -> dict[str, str]:
        """As plain data, as a run stores it."""
        return {"name": self.name, "direction": self.direction, "unit": self.unit}

    @classmethod
    def of(cls, record: Any) -> Score | None:
        """From plain data; None where it is no score."""
        if not isinstance(record, Mapping):
            return None
        name, direction, unit = (record.get(key) for key in ("name", "direction", "unit"))
        if not isinstance(name, str) or not name or direction not in ("max", "min") or not isinstance(unit, str):
            return None
        return cls(name, direction, unit)


@dataclass(frozen=True)
class Known:
    """The scores that a task or a run knows."""

    headline: Score
    """What tables, plots, searches and checkpoints are about unless told otherwise."""
    scores: Mapping[str, Score]
    """By name."""

    def find(self, key: str) -> Score | None:
        """The score behind a key or a name; None where nothing is known of it."""
        return next((self.scores[name] for name in names(key) if name in self.scores), None)

    def score(self, key: str) -> Score:
        """The same; an unknown one is a number without a unit of which more is better."""
        return self.find(key) or Score(key)

    def with_terms(self, terms: Iterable[str]) -> Known:
        """Also with these loss terms, as far as they are not known: less of a loss is better."""
        return Known(self.headline, {**{name: Score(name, "min") for name in terms}, **self.scores})

    @classmethod
    def of_run(cls, folder: str | Path, config: Mapping[str, Any] | None = None) -> Known:
        """Those of a run folder; the earlier ones where it has no ``scores.json`` that can be read.

        Args:
            config: the run's configuration, whose loss terms are known too.
        """
        found = recorded(folder)
        config = config or {}
        terms = config.get("loss")
        known = (found or EARLIER).with_terms(terms if isinstance(terms, Mapping) else ())
        return known if found else with_watched(known, config)


def names(key: str) -> Iterator[str]:
    """What a key's score may be called, the most likely first: ``val/ECE/tau_5`` is ``ECE/tau_5``, else ``ECE``."""
    key = key.removeprefix("best/")
    for text in (key.partition("/")[2], key):  # a name need not have a stage before it
        while text:
            yield text
            text = text.rpartition("/")[0]


def name_of(key: str) -> str:
    """A key without its stage: ``mIoU`` of ``test/mIoU``."""
    return key.partition("/")[2] or key


def recorded(folder: str | Path) -> Known | None:
    """What a folder's ``scores.json`` says; None where there is none, or none that can be understood."""
    try:
        content = json.loads((Path(folder) / FILE).read_text())
    except (OSError, ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("scores"), dict):
        return None
    headline = Score.of(content.get("headline"))
    scores = {name: Score.of(record) for name, record in content["scores"].items()}
    if headline is None or None in scores.values():
        return None
    return Known(headline, {name: score for name, score in scores.items() if score} | {headline.name: headline})


def best_of(results: Mapping[str, Any]) -> float | None:
    """The best value of the score that a run monitored, among its results."""
    return next((value for key, value in results.items() if key.startswith("best/")), None)


# --- Runs without a record. Nothing below is asked of a run that has a scores.json.

_MORE = (
    "mIoU", "aAcc", "mAcc", "fwIoU", "mDice", "IoU", "Acc", "Dice", "Precision", "Recall", "Fscore", "mBoundaryIoU",
    "BoundaryIoU", "mIoU_coarse", "mIoU_oracle", "context_gain", "context_gap",
)  # fmt: skip
_LESS = (Score("loss", "min"), Score("NLL", "min", "nats"), Score("ECE", "min", "percent"))
EARLIER = Known(
    Score("mIoU", "max", "percent"),
    {score.name: score for score in (*(Score(name, "max", "percent") for name in _MORE), *_LESS)},
)
"""What versions before ``scores.json`` logged: they were all about mIoU."""


def with_watched(known: Known, config: Mapping[str, Any]) -> Known:
    """Also with the value that an earlier configuration told the direction of, in ``callbacks.checkpoints``."""
    node: Any = config
    for key in ("callbacks", "checkpoints"):
        node = node.get(key) if isinstance(node, Mapping) else None
    monitor, mode = (node.get(key) if isinstance(node, Mapping) else None for key in ("monitor", "mode"))
    if not isinstance(monitor, str) or mode not in ("max", "min") or known.find(monitor):
        return known
    name = name_of(monitor)
    return Known(known.headline, {**known.scores, name: Score(name, mode)})

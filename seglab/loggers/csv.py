"""``metrics.csv`` in the run folder: one row per step, one column per logged value."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from seglab.runs import atomic


class CSV(Logger):
    """Rows are on the disk as soon as they are logged, and a resumed run goes on with them (Lightning's logger deletes
    the file). What a resumed run repeats replaces what the run that was killed had logged.
    """

    def __init__(self, save_dir: str | Path, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(save_dir) / filename
        self.columns: list[str] | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; a value of a new name rewrites the file with one more column."""
        # Lightning adds its epoch, which an endless stream does not have.
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        row = {"step": 0 if step is None else step, **values}
        if self.columns is None:
            self.columns = ["step"]
            dated = [old for old in self.rows() if old["step"].isdigit()]
            self._rewrite(list(takewhile(partial(comes_before, first=row), dated)), row)
        elif row.keys() <= set(self.columns):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        else:
            self._rewrite(self.rows(), row)

    def rows(self) -> list[dict[str, str]]:
        """What the file holds."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file, restval=""))

    def _rewrite(self, rows: list[dict[str, str]], row: dict[str, Any]) -> None:
        self.columns = list(dict.fromkeys(["step", *(rows[0] if rows else ()), *(self.columns or ()), *row]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows([*rows, row])
        atomic.write_text(self.path, text.getvalue())


def comes_before(old: Mapping[str, str], first: Mapping[str, Any]) -> bool:
    """Whether a row of the file was logged before ``first``, with which a resumed run begins.

    A step has a row for the training and may have another for the validation, each of values of its own.
    """
    if int(old["step"]) != first["step"]:
        return int(old["step"]) < first["step"]
    return not any(old.get(name) for name in first if name != "step")

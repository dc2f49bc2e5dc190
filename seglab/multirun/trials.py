"""One command's search and the names of its trials: what running them and telling of them share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.multirun import plan, record
from seglab.multirun.space import Space
from seglab.scores import Score

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Search:
    """One command's search."""

    space: Space
    folder: Path
    settings: dict[str, Any]
    """The ``search`` node."""
    seed: int
    score: Score
    """What ``search.metric`` is of: its direction and its unit."""
    about: dict[str, Any]
    """What ``sweep.json`` says beside the jobs."""

    def name(self, trial: FrozenTrial) -> str:
        """A trial's run folder: ``trial=007,lr=0.00316,tau=15``."""
        values = self.space.values(trial.params).items()
        choices = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values)
        return plan.safe_name(f"trial={trial.number:03d},{choices}")

    def run_dir(self, trial: FrozenTrial) -> Path:
        """Where a trial's run is."""
        return self.folder / self.name(trial)

    def write(self, study: Study) -> None:
        """Bring ``sweep.json`` up to date."""
        jobs = {
            self.name(trial): {
                "factors": {"trial": trial.number, **self.space.values(trial.params), "seed": self.seed},
                "overrides": self.space.overrides(trial.params),
            }
            for trial in study.get_trials(deepcopy=False)
            if trial.params.keys() == self.space.parameters.keys()
        }
        record.write(self.folder, self.about, jobs)

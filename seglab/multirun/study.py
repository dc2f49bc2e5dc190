"""The study of a search: Optuna's record of its trials, which outlives every process.

It lies in the sweep folder (``search.journal``, which several processes may write) or in a data base. Nobody but the
search's own process asks for trials and ends them; the run of a trial adds what it measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.errors import ConfigError
from seglab.multirun import record
from seglab.multirun.space import Space
from seglab.scores import Score

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL = "search.journal"
DIRECTIONS = {"max": "maximize", "min": "minimize"}
"""How Optuna calls a score's directions."""


def require() -> None:
    """Say so where Optuna is missing.

    Raises:
        ConfigError: it is.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("search=optuna needs Optuna, which is not installed — pip install 'seglab[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(
    folder: Path, storage: str | None, pruner: BasePruner | None = None, direction: str | None = None
) -> Study:
    """The study of a sweep folder.

    Args:
        storage: a data base's address; None for the folder's journal.
        pruner: None ends no trial early.
        direction: of a study that is made if there is none yet; None opens one that exists.

    Raises:
        ConfigError: another direction than before, or a study that cannot be read.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    # The folder may be moved, so its journal does not know its name; a data base may have many studies.
    name = "search" if storage is None else folder.name
    opened: Any = {"study_name": name, "pruner": pruner or optuna.pruners.NopPruner()}
    try:
        opened["storage"] = storage or optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        if direction is None:
            return optuna.load_study(**opened)
        opened |= {"direction": direction, "load_if_exists": True}
        study = optuna.create_study(**opened)
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"the study {storage or folder / JOURNAL} cannot be opened ({error or type(error).__name__}) — check "
            "search.storage, or start another search in another folder with hydra.sweep.dir=…"
        ) from error
    if study.direction.name.lower() != direction:
        raise ConfigError(
            f"search.direction={direction}, but the study in {folder} is to {study.direction.name.lower()} — set it "
            "back, or choose another folder with hydra.sweep.dir=…"
        )
    return study


def exists(folder: Path, storage: str | None) -> bool:
    """Whether a sweep folder has a study."""
    import optuna

    if storage is None:
        return (folder / JOURNAL).is_file()
    return folder.name in optuna.get_all_study_names(storage)


def check_space(study: Study, space: Space, folder: Path) -> None:
    """Refuse to mix searches of different spaces in one study.

    Raises:
        ConfigError: names what differs.
    """
    from optuna.distributions import check_distribution_compatibility
    from optuna.trial import TrialState

    hint = "choose another folder with hydra.sweep.dir=…"
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished() and len(trial.params) < len(space.parameters):
            study.tell(trial.number, state=TrialState.FAIL)  # killed between two of its suggestions
        elif trial.params and trial.params.keys() != space.parameters.keys() and trial.state != TrialState.FAIL:
            raise ConfigError(
                f"the study in {folder} searches {', '.join(trial.params)}, not {', '.join(space.parameters)} — {hint}"
            )
        for name, before in trial.distributions.items():
            try:
                check_distribution_compatibility(before, space.parameters[name].distribution)
            except ValueError as error:
                raise ConfigError(
                    f"{name}={space.parameters[name].written}: the study in {folder} had {before} — numbers may get "
                    f"other bounds, choices must stay the same; {hint}"
                ) from error


def sampler(node: Mapping[str, Any], number: int) -> BaseSampler:
    """The sampler for a trial: what it draws follows from its seed and the trial, however often a search was stopped.

    A sampler that is made again draws from the beginning of its random numbers, and would suggest the first trials
    once more. A quasi-random sequence has its place in the study, and its seed is its name.
    """
    from seglab import build

    if isinstance(node.get("seed"), int) and not str(node.get("_target_")).endswith("QMCSampler"):
        node = {**node, "seed": node["seed"] + number}
    return build.instantiate(node, "search.sampler")


def best_value(trial: FrozenTrial, score: Score) -> float | None:
    """The best that a trial has reported, or None."""
    known = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
    return score.best(known) if known else None


def settle(study: Study, number: int, run_dir: Path, score: Score, failed: bool = False) -> str | None:
    """Tell the study what became of a trial: ``complete``, ``pruned`` or ``failed``; None while that is open.

    Args:
        failed: the launcher says so. A run that did not come to open its folder cannot.
    """
    from optuna.trial import TrialState

    state = record.state(run_dir)
    if state == "new" and failed:
        state = "failed"
    if state not in ("done", "failed"):
        return None
    value = best_value(study.get_trials(deepcopy=False)[number], score)
    if state == "done" and record.status(run_dir).get("status") == "pruned":
        study.tell(number, state=TrialState.PRUNED)
        return "pruned"
    if state == "failed" or value is None:
        study.tell(number, state=TrialState.FAIL)
        return "failed"
    study.tell(number, value)
    return "complete"

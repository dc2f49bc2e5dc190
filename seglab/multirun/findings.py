"""What a search has found: ``search.json``, ``search.png`` and a table, from its study."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.multirun.space import Space
from seglab.multirun.study import DIRECTIONS, best_value, exists, open_study
from seglab.multirun.trials import Search
from seglab.runs import atomic
from seglab.runs.atomic import jsonable
from seglab.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

FILE = "search.json"
ENOUGH = 10
"""Completed trials that importances are worth computing from."""
OF_THE_SEARCH = ("search=", "search.", "sweep.", "launcher=", "callbacks.pruning", "ablation=")
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "unfinished",
    "WAITING": "unfinished",
}


def write(study: Study, search: Search) -> None:
    """Write ``search.json`` and, of two trials or more with a value, ``search.png``."""
    about = summary(study, search)
    atomic.write_json(search.folder / FILE, jsonable(about))
    if sum(trial["value"] is not None for trial in about["trials"]) > 1:
        with atomic.replacing(search.folder / "search.png") as file:
            draw(about).savefig(file, format="png")


def summary(study: Study, search: Search) -> dict[str, Any]:
    """Everything as plain containers: the space, the trials in order, the best one, what mattered."""
    score = search.score
    trials = [described(trial, search) for trial in study.get_trials(deepcopy=False) if trial.params]
    done = [trial for trial in trials if trial["state"] == "complete"]
    if best := (min if score.lower else max)(done, key=lambda trial: trial["value"], default=None):
        varied = search.space.varied(study.get_trials(deepcopy=False)[best["trial"]].params)
        best = {**best, "command": command(search.space.fixed, varied)}
    return {
        "format": 1, "name": search.folder.name, "metric": search.settings["metric"],
        "direction": DIRECTIONS[score.direction], "unit": score.unit,
        "space": {name: parameter.written for name, parameter in search.space.parameters.items()},
        "fixed": search.space.fixed, "best": best, "importance": importance(study), "trials": trials,
    }  # fmt: skip


def described(trial: FrozenTrial, search: Search) -> dict[str, Any]:
    """One trial; its value is its best validation, be it complete or not."""
    return {
        "trial": trial.number,
        "state": STATES[trial.state.name],
        "value": best_value(trial, search.score),
        "step": trial.last_step,
        "parameters": search.space.values(trial.params),
        "folder": search.name(trial),
    }


def command(fixed: list[str], varied: list[str]) -> str:
    """A run of its own with what was found."""
    return shlex.join(["python", "-m", "seglab.train", *own(fixed), *varied])


def own(fixed: Sequence[str]) -> list[str]:
    """The fixed overrides that say what a run is, not how the search goes about."""
    return [override for override in fixed if not override.lstrip("+~").startswith(OF_THE_SEARCH)]


def importance(study: Study) -> dict[str, float] | None:
    """Each parameter's share of what decides whether a trial is among the best (PED-ANOVA); None of few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(complete) < ENOUGH or len({trial.value for trial in complete}) < 2:
        return None
    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def show(study: Study, search: Search) -> None:
    """Print the trials, the best one, and how to run it again."""
    from rich.console import Console

    about = summary(study, search)
    console = Console(width=max(Console().width, 120))
    console.print(table(about))
    states = [trial["state"] for trial in about["trials"]]
    log.info("%d trials: %s", len(states), counted(states))
    if about["importance"]:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in about["importance"].items())
        log.info("importance: %s", shares)
    if best := about["best"]:
        log.info(
            "best: trial %d, %s %s, %s", best["trial"], about["metric"], text(best["value"], about), best["folder"]
        )
        print(f"\nwith what was found:\n  {best['command']}\n")


def preview(folder: Path, space: Space, settings: dict[str, Any], score: Score) -> None:
    """The space, and what is done of it, for ``sweep.dry_run``."""
    from rich.console import Console
    from rich.table import Table

    rows = Table(title=str(folder), title_justify="left")
    for heading in ("parameter", "searched in", "for Optuna"):
        rows.add_column(heading)
    for name, parameter in space.parameters.items():
        rows.add_row(name, parameter.written, str(parameter.distribution))
    console = Console(width=max(Console().width, 120))
    console.print(rows)
    if not exists(folder, settings["storage"]):
        console.print(f"0 of {settings['trials']} trials are done")
        return
    study = open_study(folder, settings["storage"], direction=DIRECTIONS[score.direction])
    about = summary(study, Search(space, folder, settings, 0, score, {}))
    console.print(table(about))
    states = [trial["state"] for trial in about["trials"]]
    console.print(f"{len(states)} of {settings['trials']} trials: {counted(states) or 'none'}")


def table(about: dict[str, Any]) -> Any:
    """The trials as a table for the terminal; the best one stands out."""
    from rich.table import Table

    rows = Table(title=f"best {about['metric']} of each trial", title_justify="left")
    rows.add_column("trial", justify="right")
    for name in about["space"]:
        rows.add_column(name, justify="right")
    for heading in (about["metric"], "step", "state"):
        rows.add_column(heading, justify="right" if heading != "state" else "left")
    best = about["best"] and about["best"]["trial"]
    for trial in about["trials"]:
        values = [str(value) for value in trial["parameters"].values()]
        ends = [text(trial["value"], about), str(trial["step"] if trial["step"] is not None else ""), trial["state"]]
        rows.add_row(str(trial["trial"]), *values, *ends, style="bold" if trial["trial"] == best else None)
    return rows


def counted(states: list[str]) -> str:
    """``12 complete, 7 pruned, 1 failed``."""
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(STATES.values()) if state in states)


def score_of(about: dict[str, Any]) -> Score:
    """What the search's metric is of."""
    return Score(about["metric"], "min" if about["direction"] == DIRECTIONS["min"] else "max", about["unit"])


def text(value: float | None, about: dict[str, Any]) -> str:
    """A value for reading."""
    return "" if value is None else score_of(about).text(value)


def draw(about: dict[str, Any]) -> Figure:
    """Each trial's value by its number, and the best one so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    score = score_of(about)
    scale, unit = score.scale, f" ({score.sign})" if score.sign else ""
    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    looks: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o", "color": "#0072B2"},
        "pruned": {"marker": "v", "color": "#E69F00", "mfc": "white", "mew": 1.4},
        "failed": {"marker": "x", "color": "#D55E00", "mew": 1.6},
        "unfinished": {"marker": "s", "color": "#999999", "mfc": "white"},
    }
    trials = about["trials"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if complete:
        so_far = [complete[0]["value"]]
        for trial in complete[1:]:
            so_far.append(score.best((so_far[-1], trial["value"])))
        places = [trial["trial"] for trial in complete]
        last = trials[-1]["trial"]
        axes.step([*places, last], [scale * v for v in [*so_far, so_far[-1]]], where="post", color="black", lw=1.2,
                  label="best so far")  # fmt: skip
    for state, look in looks.items():
        points = [trial for trial in trials if trial["state"] == state]
        known = [trial for trial in points if trial["value"] is not None]
        if known:
            x, y = [trial["trial"] for trial in known], [scale * trial["value"] for trial in known]
            axes.plot(x, y, ls="", ms=6, label=f"{state} ({len(points)})", **look)
        # Without a value: on the lower edge.
        unknown = [trial["trial"] for trial in points if trial["value"] is None]
        label = None if known else f"{state} ({len(points)}), no value"
        if unknown:
            edge = axes.get_xaxis_transform()
            axes.plot(unknown, [0.02] * len(unknown), ls="", ms=6, transform=edge, label=label, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=f"best {about['metric']} of the trial{unit}")
    axes.set_xlim(-0.5, max(trial["trial"] for trial in trials) + 0.5)
    axes.set_title(about["name"], fontsize=9)
    axes.grid(color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure

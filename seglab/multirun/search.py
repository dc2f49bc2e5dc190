"""A search for hyper-parameters, trial by trial: ask Optuna, launch runs, tell it what came out.

A trial is a run in the sweep folder. What has been asked and told lies in the study (:mod:`seglab.multirun.study`),
what has run in the run folders; the same command reads both and goes on: with interrupted trials first, then with new
ones until there are ``search.trials``.
"""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from seglab.errors import ConfigError, UserError
from seglab.multirun import findings, plan, record, study
from seglab.multirun.findings import own
from seglab.multirun.space import Space, space
from seglab.multirun.study import DIRECTIONS, sampler, settle
from seglab.multirun.sweeper import SweepFailed, check_devices, sweep_dir, waiting, workers
from seglab.multirun.trials import Search
from seglab.runs.provenance import now
from seglab.runs.signals import Pruned
from seglab.scores import Known, Score, name_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

MOST_FAILURES = 3
"""So many failures before anything has succeeded end a search: the mistake is not in the hyper-parameters."""


@dataclass(frozen=True)
class Failure:
    """A trial that failed."""

    trial: int
    error: str
    exit_code: int


def search(
    config: DictConfig,
    params: dict[str, Any],
    arguments: list[str],
    context: HydraContext,
    make_launcher: Callable[[DictConfig], Launcher],
) -> None:
    """Run the trials that are not there yet.

    Args:
        config: the master configuration, with the ``hydra`` node.
        params: what a file varies.
        arguments: the command line's overrides.
        make_launcher: called when the folder is known.

    Raises:
        ConfigError: nothing to search, or a configuration that cannot be.
        SweepFailed: no trial came to a result, or one failed and ``sweep.on_error=stop``.
    """
    study.require()
    options: Any = OmegaConf.to_container(config.sweep, resolve=True)
    settings: Any = OmegaConf.to_container(config.search, resolve=True)
    check(options, settings)
    loader = context.config_loader
    found = space(params, arguments, loader)
    base = compose_all(found, lambda overrides: loader.load_sweep_config(config, overrides))
    check_devices(base["trainer"])
    known = known_scores(base)
    settings["metric"], score = searched(known, settings["metric"], settings["direction"])
    folder = search_dir(config, found)
    if options["dry_run"]:
        findings.preview(folder, found, settings, score)
        return
    this = Search(found, folder, settings, base["seed"], score, described(config, options, found, folder))
    opened = open_study(this)
    launch = launching(config, this, make_launcher(config))
    try:
        failures = proceed(this, opened, this.about["parallel"], launch)
    finally:
        findings.write(opened, this)
    findings.show(opened, this)
    sum_up(this, opened, failures, table_metric(base, known.headline, settings["metric"]))


def known_scores(config: Mapping[str, Any]) -> Known:
    """The scores that a configuration's runs will know; nothing is built for it."""
    from seglab import build

    headline = build.task_class(config).headline
    scores = {"loss": Score("loss", "min"), headline.name: headline}
    for node in (config.get("metrics") or {}).values():
        try:
            made = pkgutil.resolve_name(node["_target_"]) if node else None
        except (ImportError, AttributeError, ValueError, TypeError, KeyError):  # the first run names it
            continue
        scores |= {score.name: score for score in getattr(made, "scores", ())}
    return Known(headline, scores).with_terms(config.get("loss") or {})


def searched(known: Known, metric: str | None, direction: str | None) -> tuple[str, Score]:
    """The key that is searched by, and its score.

    Args:
        metric: null: the headline in validation.
        direction: ``maximize`` or ``minimize``; null: as the score says.

    Raises:
        ConfigError: the direction contradicts the score, or is missing where nothing is known of the metric.
    """
    metric = metric or f"val/{known.headline.name}"
    score = known.find(metric)
    if score is None:
        if direction is None:
            raise ConfigError(
                f"search.metric={metric}: whether more or less of it is better is not known — set "
                "search.direction=maximize or minimize, or search by one of "
                f"{', '.join(f'val/{name}' for name in sorted(known.scores))}"
            )
        return metric, Score(name_of(metric), "min" if direction == DIRECTIONS["min"] else "max")
    if direction not in (None, DIRECTIONS[score.direction]):
        better = "less" if score.lower else "more"
        raise ConfigError(
            f"search.direction={direction} of {metric} would search for the worst: {better} of {score.name} is better "
            f"— set search.direction={DIRECTIONS[score.direction]}, or null"
        )
    return metric, score


def search_dir(config: DictConfig, found: Space) -> Path:
    """The folder of the trials; the configuration's multirun folder from now on."""
    # The question is the ranges and what is fixed. How many trials answer it may still change.
    asked = [each for each in found.fixed if not each.startswith("search.trials=")]
    asked += [f"{each.key}={each.written}" for each in found.parameters.values()]
    folder = sweep_dir(config, plan.Axes({key: {} for key in found.parameters}, asked), {})
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
    return folder


def described(config: DictConfig, options: Mapping[str, Any], found: Space, folder: Path) -> dict[str, Any]:
    """What ``sweep.json`` says beside the jobs."""
    return {
        "name": folder.name, "ablation": config.hydra.runtime.choices.get("ablation"), "started": now(),
        "on_error": options["on_error"], "parallel": workers(config.hydra.launcher), "fixed": found.fixed,
        **{key: options[key] for key in ("title", "baseline", "published")},
    }  # fmt: skip


def open_study(this: Search) -> Study:
    """The search's study, in its folder; what contradicts an earlier command's is refused or told."""
    settings, direction = this.settings, DIRECTIONS[this.score.direction]
    pruner = pruner_of(settings)
    sampler(settings["sampler"], 0)  # what it cannot be made of is said before anything is
    this.folder.mkdir(parents=True, exist_ok=True)
    opened = study.open_study(this.folder, settings["storage"], pruner, direction)
    study.check_space(opened, this.space, this.folder)
    log.info("search folder: %s", this.folder)
    compare(record.read(this.folder).get("fixed"), this.space.fixed)
    return opened


def launching(
    config: DictConfig, this: Search, launcher: Launcher
) -> Callable[[Sequence[FrozenTrial]], list[Exception | None]]:
    """What runs trials, and comes back with their errors when they have ended."""

    def launch(trials: Sequence[FrozenTrial]) -> list[Exception | None]:
        where = f"hydra.sweep.dir='{this.folder}'"
        jobs = [[*this.space.overrides(t.params), where, f"hydra.sweep.subdir='{this.name(t)}'"] for t in trials]
        try:
            with waiting(config.hydra.launcher):
                return [error_of(each) for each in launcher.launch(jobs, initial_job_idx=trials[0].number)]
        except Pruned:  # the only job, which ran in this process
            return [None]
        except (HydraException, OmegaConfBaseException) as error:  # choices that exist, but not with each other
            return [error] * len(trials)
        finally:
            configure_log(config.hydra.hydra_logging, config.hydra.verbose)

    return launch


def table_metric(config: Mapping[str, Any], headline: Score, metric: str) -> str:
    """The key under which the runs' ``metrics.json`` has the metric: its best where the checkpoints monitor it too."""
    node = (config.get("callbacks") or {}).get("checkpoints") or {"best": False}
    if node.get("best") is False or (node.get("monitor") or f"val/{headline.name}") != metric:
        return metric
    return f"best/{metric.removeprefix('val/')}"


def compare(before: Sequence[str] | None, fixed: Sequence[str]) -> None:
    """Warn where a folder that was asked for has trials with other fixed choices."""
    changed = sorted(set(own(before or fixed)) ^ set(own(fixed)))
    if changed:
        log.warning("other choices than in the earlier trials, which are compared all the same: %s", ", ".join(changed))


def error_of(result: JobReturn) -> Exception | None:
    """What a job ended with."""
    try:
        _ = result.return_value
    except Exception as error:
        return error
    return None


def check(options: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse settings that mean nothing.

    Raises:
        ConfigError: one of them.
    """
    if options["on_error"] not in ("stop", "continue"):
        raise ConfigError(f"sweep.on_error={options['on_error']} — expected stop or continue")
    if options["variants"]:
        raise ConfigError(
            f"a search beside the variants {', '.join(options['variants'])} — expected search=optuna without a table's "
            "ablation=…; search one variant by its overrides"
        )
    if settings["direction"] not in (None, *DIRECTIONS.values()):
        raise ConfigError(
            f"search.direction={settings['direction']} — expected {' or '.join(DIRECTIONS.values())}, or null"
        )
    if not isinstance(settings["trials"], int) or settings["trials"] < 1:
        raise ConfigError(f"search.trials={settings['trials']} — expected a number of trials, at least 1")


def compose_all(space: Space, compose: Callable[[list[str]], DictConfig]) -> dict[str, Any]:
    """A first trial's resolved configuration, once every choice has been tried with it.

    Raises:
        HydraException: a key or an option that does not exist.
    """
    first = {name: parameter.first for name, parameter in space.parameters.items()}
    base = plan.training(compose(space.overrides(first)))
    for name, parameter in space.parameters.items():
        for choice in list(parameter.choices)[1:]:
            compose(space.overrides({**first, name: choice}))
    return base


def pruner_of(settings: dict[str, Any]) -> Any:
    """The pruner, or None. Here it is for samplers that ask for it; the runs make their own."""
    from seglab import build

    return build.instantiate(settings["pruner"], "search.pruner") if settings["pruner"] else None


def proceed(
    this: Search, study: Study, parallel: int, launch: Callable[[Sequence[FrozenTrial]], Sequence[Exception | None]]
) -> list[Failure]:
    """Interrupted trials, then new ones, until there are enough or something speaks against it; gives what failed.

    Args:
        parallel: how many at a time.
        launch: runs trials, and comes back when they have ended, with their errors.
    """
    failures: list[Failure] = []

    def settled(trial: FrozenTrial, error: Exception | None = None) -> bool:
        run_dir = this.run_dir(trial)
        ended = settle(study, trial.number, run_dir, this.score, failed=error is not None)
        if ended == "failed":
            said = record.status(run_dir)
            why = said.get("error") or (str(error) if error else f"reported no {this.settings['metric']}")
            code: Any = said.get("exit_code") or getattr(error, "exit_code", 1)
            failures.append(Failure(trial.number, why, code))
            log.warning("trial %d failed: %s", trial.number, why)
        return ended is not None

    waiting = [trial for trial in unfinished(study) if not settled(trial)]
    waiting = [trial for trial in waiting if record.state(this.run_dir(trial)) != "running"]
    # A search in which nothing has worked has not begun: its failures do not count.
    uncounted = 0 if succeeded(study) else len(study.get_trials(deepcopy=False)) - len(unfinished(study))
    trials = this.settings["trials"]
    while True:
        batch, waiting = waiting[:parallel], waiting[parallel:]
        while len(batch) < parallel and (number := len(study.get_trials(deepcopy=False))) - uncounted < trials:
            study.sampler = sampler(this.settings["sampler"], number)
            study.ask(this.space.distributions)
            batch.append(study.get_trials(deepcopy=False)[number])
        if not batch:
            return failures
        this.write(study)
        for trial in batch:
            log.info("trial %d, of %d in all: %s", trial.number, trials, " ".join(this.space.varied(trial.params)))
        errors = launch(batch)
        ended = [settled(trial, error) for trial, error in zip(batch, errors, strict=True)]
        all_failed = len(failures) >= MOST_FAILURES and not succeeded(study)
        if not all(ended) or all_failed or (failures and this.about["on_error"] == "stop"):
            return failures


def unfinished(study: Study) -> list[FrozenTrial]:
    """Trials that were asked for and of which nothing was told."""
    return [trial for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]


def succeeded(study: Study) -> bool:
    """Whether any trial came to a result, be it pruned."""
    return any(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def sum_up(this: Search, study: Study, failures: Sequence[Failure], metric: str) -> None:
    """Say what is left, and what went wrong.

    Args:
        metric: what a table of the trials is about.

    Raises:
        SweepFailed: no trial came to a result, or the search was to stop at a failure.
    """
    if left := len(unfinished(study)):
        log.info("%d trials are left: the same command goes on with them", left)
    log.info("table, figures and report: python -m seglab.report %s --metric %s", this.folder, metric)
    if failures and (this.about["on_error"] == "stop" or not succeeded(study)):
        lines = "\n".join(f"  trial {each.trial}: {each.error}" for each in failures)
        user = all(each.exit_code == UserError.exit_code for each in failures)
        others = "the others' results are kept" if succeeded(study) else "none came to a result"
        raise SweepFailed(
            f"{len(failures)} trials failed, {others}; the same command goes on with new ones:\n{lines}",
            UserError.exit_code if user else 1,
        )

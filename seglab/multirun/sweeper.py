"""The course of a sweep: plan, say, launch what is left, sum up.

Hydra finds it as ``hydra_plugins.seglab_sweeper``; the launcher (one after another, joblib, SLURM) is Hydra's.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from seglab.errors import ConfigError, UserError
from seglab.multirun import job as jobs_life
from seglab.multirun import plan, record
from seglab.runs.folder import FOLDER_KEYS, set_aside
from seglab.runs.provenance import now
from seglab.runs.signals import REASONS, Stopped

log = logging.getLogger(__name__)


class SweepFailed(Exception):
    """Some jobs failed; the others' results are there."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def sweep(
    config: DictConfig,
    params: dict[str, Any],
    arguments: list[str],
    context: HydraContext,
    make_launcher: Callable[[DictConfig], Launcher],
) -> None:
    """Run what a multirun's command means and is not done yet.

    Args:
        config: the master configuration, with the ``hydra`` node.
        params: what the file varies.
        arguments: the command line's overrides.
        make_launcher: called when the folder is known.

    Raises:
        ConfigError: a job that cannot be composed, several processes per job, or a bad ``sweep`` key.
        SweepFailed: jobs failed.
    """
    options: dict[str, Any] = OmegaConf.to_container(config.sweep, resolve=True)  # type: ignore[assignment]
    if options["on_error"] not in ("stop", "continue"):
        raise ConfigError(f"sweep.on_error={options['on_error']} — expected stop or continue")
    command = check_command(config, options["command"], arguments)
    loader = context.config_loader
    found = plan.axes(params, arguments, loader)
    planned = plan.jobs(found, chosen(options), lambda given: loader.load_sweep_config(config, given), command)
    for each in planned:
        check_devices(each.config["trainer"])
    folder = sweep_dir(config, found, params)
    names = [each.name for each in planned]
    parallel = workers(config.hydra.launcher)
    if options["dry_run"]:
        show(folder, planned, parallel)
        return

    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
    record.write(folder, {
        "name": folder.name, "ablation": config.hydra.runtime.choices.get("ablation"), "started": now(),
        "on_error": options["on_error"], "parallel": parallel, "fixed": found.fixed,
        **{key: options[key] for key in ("title", "baseline", "published")},
    }, {each.name: {"factors": each.factors, "overrides": each.overrides} for each in planned})  # fmt: skip
    left = [each for each in planned if record.state(folder / each.name) in ("new", "stopped", "failed")]
    log.info("sweep folder: %s", folder)
    log.info("%d jobs: %s", len(planned), jobs_life.standing(folder))
    for each in left:
        if record.state(folder / each.name) == "failed":
            log.info("%s failed before; what it left is in %s", each.name, set_aside(folder / each.name, ".failed"))
    if left:
        where = f"hydra.sweep.dir='{folder}'"
        with waiting(config.hydra.launcher):
            make_launcher(config).launch(
                [[*each.overrides, where, f"hydra.sweep.subdir='{each.name}'"] for each in left], initial_job_idx=0
            )
    sum_up(folder, names)


def check_command(config: DictConfig, expected: str, arguments: list[str]) -> str:
    """The command whose jobs these are.

    Raises:
        ConfigError: an ablation of another command, or one folder for all jobs.
    """
    command, ablation = str(config.hydra.job.config_name), config.hydra.runtime.choices.get("ablation")
    if ablation and command != expected:
        raise ConfigError(f"ablation={ablation} is of another command — run it with python -m seglab.{expected}")
    key = FOLDER_KEYS[command]
    if given := next((each for each in arguments if plan.key_of(each) == key), None):
        raise ConfigError(f"{given} in a multirun, each of whose jobs has a folder — set hydra.sweep.dir=FOLDER")
    return command


def chosen(options: dict[str, Any]) -> dict[str, list[str]]:
    """The variants, or the named ones of them.

    Raises:
        ConfigError: an unknown name.
    """
    variants = {str(name): list(overrides or []) for name, overrides in (options["variants"] or {}).items()}
    if options["only"] is None:
        return variants
    unknown = [name for name in options["only"] if str(name) not in variants]
    if unknown:
        raise ConfigError(f"sweep.only names {', '.join(unknown)} — expected some of: {', '.join(variants)}")
    return {str(name): variants[str(name)] for name in options["only"]}


def check_devices(trainer: dict[str, Any]) -> None:
    """Refuse several processes per job.

    Raises:
        ConfigError: names the two ways that work.
    """
    devices = trainer.get("devices", 1)
    several = (isinstance(devices, list) and len(devices) > 1) or (str(devices).isdigit() and int(devices) > 1)
    if several or "strategy" in trainer or int(trainer.get("num_nodes", 1)) > 1:
        raise ConfigError(
            "several processes inside a multirun: each would start the whole sweep again — either run the jobs one by "
            "one without -m (trainer=ddp), or sweep with one device per job (trainer=default trainer.devices=1) and "
            "let launcher=joblib or launcher=slurm run several jobs at a time"
        )


def sweep_dir(config: DictConfig, axes: plan.Axes, params: dict[str, Any]) -> Path:
    """The sweep's folder: the one that was asked for, or always the same for the same question."""
    given = any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra)
    base = Path(str(config.hydra.sweep.dir)).absolute()
    choices = config.hydra.runtime.choices
    return base if given else base / plan.sweep_name(axes, params, choices.get("ablation"), choices.get("data"))


def workers(launcher: DictConfig) -> int:
    """Jobs at the same time."""
    count = int(launcher.get("n_jobs") or launcher.get("array_parallelism") or 1)
    return count if count > 0 else max(1, (os.cpu_count() or 1) + 1 + count)


def show(folder: Path, planned: list[plan.Job], parallel: int) -> None:
    """The plan as a table: jobs, their states, and the time left."""
    from rich.console import Console
    from rich.table import Table

    names = [each.name for each in planned]
    states = {name: record.state(folder / name) for name in names}
    table = Table()
    for heading in ("job", *planned[0].factors, "state", "folder"):
        table.add_column(heading, justify="right" if heading == "job" else "left", no_wrap=heading == "folder")
    for number, each in enumerate(planned, 1):
        values = [str(value) for value in each.factors.values()]
        table.add_row(str(number), *values, described(folder / each.name, states[each.name]), each.name)
    console = Console(width=max(Console().width, 140))
    console.print(folder, soft_wrap=True, highlight=False)
    console.print(table)
    left = [name for name, state in states.items() if state != "done"]
    seconds = record.seconds_left(folder, left, parallel)
    how = f"{parallel} at a time" if parallel > 1 else "one after another"
    needed = f"about {record.clock(seconds)}, {how}" if seconds else "no estimate before a job is done"
    rest = f", {len(left)} left: {needed}" if left else ""
    console.print(f"{len(names) - len(left)} of {len(names)} jobs are done{rest}")


def described(run_dir: Path, state: record.State) -> str:
    """A state, with the share that is done of a job that was stopped."""
    return f"stopped at {100 * (1 - record.fraction_left(run_dir)):.0f} %" if state == "stopped" else state


def sum_up(folder: Path, names: list[str]) -> None:
    """Say how it ended and what to do next.

    Raises:
        SweepFailed: jobs failed.
    """
    states = {name: record.state(folder / name) for name in names}
    log.info("%d jobs: %s", len(names), jobs_life.standing(folder))
    log.info("table, figures and report: python -m seglab.report %s", folder)
    failed = [name for name, state in states.items() if state == "failed"]
    left = [name for name, state in states.items() if state in ("new", "stopped")]
    if left:
        log.info("%d jobs are left: the same command goes on with them", len(left))
    if failed:
        said = {name: record.status(folder / name) for name in failed}
        lines = "\n".join(f"  {name}: {about.get('error') or 'no metrics'}" for name, about in said.items())
        user = all(about.get("exit_code") == UserError.exit_code for about in said.values())
        raise SweepFailed(
            f"{len(failed)} of {len(names)} jobs failed; the others' results are kept, and the same command runs the "
            f"failed ones again:\n{lines}",
            UserError.exit_code if user else 1,
        )


def waiting(launcher: DictConfig) -> AbstractContextManager[None]:
    """What a signal means while the launcher works.

    One job after another: it is the running job's business, and ends the sweep with it. On a cluster: the jobs are not
    of this process, which leaves at once, and go on.
    """
    return patience() if "n_jobs" in launcher else nullcontext()


@contextmanager
def patience() -> Iterator[None]:
    """Jobs in processes of this machine: on a signal, wait until they have saved; on a second one, leave at once."""
    received: list[type[Stopped]] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise REASONS[number]
        received.append(REASONS[number])
        log.warning("stopping: the running jobs save and end (press again to leave at once)")
        if number != signal.SIGINT:  # Ctrl-C reaches every process of the terminal by itself
            for pid in children():
                os.kill(pid, number)

    earlier = {number: signal.signal(number, note) for number in REASONS}
    try:
        yield
    except Exception:
        if not received:
            raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if received:
        raise received[0]


def children() -> list[int]:
    """The processes that this one has started, where the system says."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()] if path.is_file() else []

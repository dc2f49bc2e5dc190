"""Train: ``python -m seglab.train classifier=ssa data=camvid data.root=… seed=1``."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from seglab import cli, options
from seglab.errors import ConfigError

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """One job as Hydra composed it; gives the best validation score, for sweepers."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from seglab.scores import best_of

    hydra_cfg = HydraConfig.get()
    config, folder, overrides = cli.to_containers(cfg), hydra_cfg.runtime.output_dir, list(hydra_cfg.overrides.task)
    if given := next((each for each in overrides if each.startswith("run_dir=")), None):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
        raise ConfigError(f"{given}: Hydra makes the folder — set hydra.{given.replace('run_dir', 'run.dir', 1)}")
    if hydra_cfg.mode == RunMode.MULTIRUN:
        from seglab.multirun import job

        config["resume"] = config["resume"] or "auto"
        return job.run(fit, config, folder, overrides, alone="basic_launcher" in hydra_cfg.launcher._target_)
    check_one_folder(hydra_cfg.overrides.hydra, Path(folder))
    return best_of(fit(config, folder, overrides))


def check_one_folder(overrides: Sequence[str], made: Path) -> None:
    """Refuse processes that srun or torchrun started and that would make a run folder each.

    Args:
        overrides: of Hydra itself.
        made: the folder that Hydra has made for this process.

    Raises:
        ConfigError: they were told no common one.
    """
    started = {"srun": ("SLURM_PROCID", "SLURM_NTASKS"), "torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE")}
    for command, (mark, number) in started.items():
        several = mark in os.environ and int(os.environ.get(number) or 1) > 1
        if several and not any(override.startswith("hydra.run.dir=") for override in overrides):
            with contextlib.suppress(OSError):
                made.rmdir()
            raise ConfigError(
                f"{os.environ[number]} processes of {command} would make a run folder each — expected one for all: set "
                "hydra.run.dir=FOLDER, with resume=auto for a job that is started again"
            )


def fit(config: dict[str, Any], run_dir: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train as configured, test, and leave everything in ``run_dir``; gives what ``metrics.json`` holds.

    Args:
        config: the resolved configuration (``conf/train.yaml``) as plain containers.
        overrides: how it was asked for, for the record.

    Raises:
        UserError: anything in the configuration or the data that has to be mended first.
    """
    from seglab import build, loggers, resume
    from seglab.callbacks.checkpoints import kept_by, scores
    from seglab.initialise import init_from
    from seglab.runs.folder import RunFolder
    from seglab.trainer import build_trainer

    kind = build.task_class(config)
    options.check(config, options.TRAIN | options.parts(*kind.PARTS, *kind.TRAINING_PARTS))
    config = {key: value for key, value in config.items() if key not in ("sweep", "search")}  # not of this one run
    with RunFolder(run_dir, results=existing_results(config, Path(run_dir)), at_end=loggers.close) as run:
        data = build.build_data(config, kind.NEEDS)
        data.in_sequences = build.compares_frames(config)
        tested = config["test"] and data.splits["test"]
        for stage in ("fit", "test") if tested else ("fit",):
            data.setup(stage)  # bad data is named before anything is built
        module = build.build_training(config, data.spec, probe=data.probe())
        trainer = build_trainer(config, str(run.path), module.task, "fit", data.steps_per_epoch)
        path = resume.start(config, run.path, module, trainer)
        if config["init_from"] and path is None:
            init_from(module.task.model, config["init_from"], config["allow_nonfinite"], data.spec.classes)
        about = {**data.spec.record(), "fingerprint": data.fingerprint()}
        run.describe(module.config, overrides, config["seed"], about)
        run.write_scores(kind.headline, module.task.known_scores())
        if run.writes:
            log_summary(config, module, data, run)
        for logger in trainer.loggers:
            logger.log_hyperparams(module.config)
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        kept = kept_by(trainer)
        found = kept.scores if kept else scores(module)
        results = {f"val/{name}": value for name, value in found.items()} | (kept.found if kept else {})
        run.write_metrics(
            {**data.spec.record(), **build.parameters(module.task), "step": trainer.global_step, **results}
        )
        if tested:
            results |= test(trainer, module, data, run, config["test"])
        monitored = {kept.score.name: kept.score} if kept and kept.score else {}
        run.write_scores(kind.headline, monitored | module.results.scores)
        if trainer.is_global_zero:
            print(f"run folder: {run.path}")
    return results


def existing_results(config: dict[str, Any], run_dir: Path) -> Any:
    """What is to become of results that another run has left in the folder (see :class:`seglab.runs.folder.RunFolder`).

    Raises:
        ConfigError: a run cannot be gone on with and set aside.
    """
    resumed, replaced = config["resume"], config["overwrite"]
    if resumed and replaced:
        raise ConfigError(f"resume={resumed} goes on with a run, overwrite=true sets it aside — expected one of them")
    if resumed == "auto" or (resumed and Path(resumed).resolve().is_relative_to(run_dir.resolve())):
        return "keep"
    return "set aside" if replaced else "refuse"


def log_summary(config: dict[str, Any], module: Any, data: Any, run: Any) -> None:
    """Say what is about to be trained, on what, and where it goes."""
    from seglab import build

    counts = ", ".join(f"{len(data.names(role))} {role}" for role in ("train", "val"))
    log.info("data: %s, %d classes, %s", data.spec.title, data.spec.num_classes, counts)
    if config["test"] and config["data"]["splits"]["test"] and not data.splits["test"]:
        there = ", ".join(data.source.splits)
        log.info("no test: %s has no split test, only %s — add it, or set data.splits.test=val", data.spec.name, there)
    modules = {name: part for name, part in module.task.model.named_children() if name in module.task.PARTS}
    parts = [str(config[name].get("name", type(part).__name__)) for name, part in modules.items()]
    millions = {name: number / 1e6 for name, number in build.parameters(module.task).items()}
    log.info("network: %s: %.2f M parameters, %.2f M trained", ", ".join(parts), *millions.values())
    log.info("loss: %s", ", ".join(name for name, _ in module.task.criterion.named()))
    log.info("run folder: %s", run.path)


def test(trainer: Any, module: Any, data: Any, run: Any, which: str) -> dict[str, Any]:
    """Evaluate the test split with the ``last`` or ``best`` weights."""
    from seglab.callbacks.checkpoints import scores

    same = ", which is also validated on" if set(data.splits["test"]) & set(data.splits["val"]) else ""
    if run.writes:
        log.info("test: split %s, %d images%s", data.split("test"), len(data.names("test")), same)
    path = str(run.checkpoints / "best.ckpt") if which == "best" else None
    trainer.test(module, datamodule=data, ckpt_path=path, verbose=False, weights_only=True)
    found = {"split": data.split("test"), **scores(module), "loss": trainer.callback_metrics.get("test/loss")}
    results = {f"test/{name}": value for name, value in found.items()}
    run.write_metrics(results)
    return results


def main() -> None:
    """Entry point."""
    cli.run(train, "train")


if __name__ == "__main__":
    main()

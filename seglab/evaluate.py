"""Evaluate: ``python -m seglab.evaluate ckpt=… [split=val] [evaluation.flip=true] [oracle=true] [corruption=fog]``.

The checkpoint brings its configuration; the module that validates in training is tested by the same Trainer, so the
numbers are equal. The output folder holds ``metrics.json`` (fractions, per-class lists), the figures and tables of the
task (``confusion.png``, ``confusion.csv``) and ``images/``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known
from seglab.checks import one_of
from seglab.data.listing import first
from seglab.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from seglab.checkpoint import Description
    from seglab.data import DataModule
    from seglab.data.corruption import Corruption
    from seglab.module import TrainingModule
    from seglab.runs.folder import RunFolder

log = logging.getLogger(__name__)

IMAGES = {"_target_": "seglab.callbacks.images.Images", "width": None, "each": True}
READ = ("data", "augment", "metrics")
"""Nodes that evaluation builds of a checkpoint's configuration, beside the task's, the network's and the losses'."""


def evaluate(cfg: DictConfig) -> None:
    """One evaluation as Hydra composed it; as a job of a multirun, in the job's folder."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    options = cli.to_containers(cfg)
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        score(options)
        return
    from seglab.multirun import job

    def work(options: dict[str, Any], folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
        return score({**options, "output": str(folder)}, overrides)

    alone = "basic_launcher" in hydra_cfg.launcher._target_
    job.run(work, options, hydra_cfg.runtime.output_dir, list(hydra_cfg.overrides.task), alone)


def score(options: Mapping[str, Any], overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate a checkpoint on a split and write the results; gives the metrics, unprefixed.

    Args:
        options: the resolved ``conf/evaluate.yaml`` as plain containers.
        overrides: how it was asked for, for the record; None: what the options say of it.

    Raises:
        UserError: a checkpoint, data or options that do not go together.
    """
    known.check(options, known.EVALUATE)

    from seglab import build, loggers
    from seglab.runs.folder import RunFolder

    folder = Path(options["output"])
    if (folder / "checkpoints").is_dir():
        raise ConfigError(
            f"output={folder} holds a training run — expected a folder of its own; choose another output="
        )
    corruption = build.build_corruption(options.get("corruption"))
    check_folder(folder, corruption)
    with RunFolder(folder, "evaluate", at_end=loggers.close) as run:
        return test(options, run, corruption, overrides)


def check_folder(folder: Path, corruption: Corruption | None) -> None:
    """Refuse a folder with the results of another corruption: their images would stand beside each other.

    Raises:
        ConfigError: names what is there.
    """
    from seglab.runs import atomic

    there = atomic.read_json(folder / "metrics.json")
    before, now = there.get("corruption"), atomic.jsonable(corruption.record()) if corruption else None
    if there and before != now:
        raise ConfigError(
            f"output={folder} holds an evaluation with corruption {json.dumps(before)} (now {json.dumps(now)}) — "
            "expected a folder of one corruption; choose another output="
        )


def test(
    options: Mapping[str, Any], run: RunFolder, corruption: Corruption | None, overrides: Sequence[str] | None
) -> dict[str, Any]:
    """The work of :func:`score` inside its folder."""
    from seglab import build, checkpoint, loading, trust
    from seglab.trainer import build_trainer

    tensors, stored = checkpoint.open_file(options["ckpt"], allow_nonfinite=options["allow_nonfinite"])
    try:
        config = configuration(stored, options)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{stored.path}: its configuration is damaged ({error!r}) — expected data, evaluation and trainer as "
            "training stores them; seglab.predict needs less of it"
        ) from error
    if not options["trust"]:
        # What was typed is the user's own, and no part of the file.
        trust.check(config, [node for node in READ if not options.get(node) or node == "data"], str(stored.path))
    kind = loading.kind_of(stored, options["trust"])
    # The loss terms of heads that the file does not have (an exported network) are left out.
    criterion = loading.criterion_of(tensors, stored, options["trust"])
    data = build.build_data(config, kind.NEEDS)
    check_data(data, stored, options)
    metrics = build.build_metrics(config, data.spec.num_classes)
    given = {score.name for metric in metrics.values() for score in metric.scores}
    if kind.headline.name not in given:
        raise ConfigError(
            f"metrics= gives {', '.join(sorted(given)) or 'nothing'} — expected {kind.headline.name} among them, which "
            f"{kind.__name__} is about; choose other metrics="
        )
    task = loading.opened(tensors, stored, options["trust"], criterion, metrics, config).task
    task.spec = data.spec  # the data's own names
    task.refinement = build.build_refinement(options["predictor"])
    data.in_sequences = task.refinement is not None or build.compares_frames(config)
    data.corruption = corruption
    if task.refinement is not None:
        task.refinement.attach(task.model, stored.spec, task.protocol)
        if task.refinement.adapts:
            config["trainer"]["inference_mode"] = False
    if options["oracle"]:
        task.scored("oracle")
    module = build.build_module(config, task)
    asked = [f"{key}={options[key]}" for key in ("ckpt", "split", "oracle")] if overrides is None else overrides
    about = {**data.spec.record(), "fingerprint": data.fingerprint(("test",))}
    run.describe({**config, "corruption": corruption and corruption.record()}, asked, config["seed"], about)

    trainer = build_trainer(config, str(run.path), task, "test")
    trainer.test(module, datamodule=data, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "step"}
        logged = {name.removeprefix("test/"): value for name, value in values.items()}
        report(module, logged, stored, data, options, run)
        run.write_scores(task.headline, module.results.scores)
    return module.results.values


def configuration(stored: Description, options: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's configuration with the options laid over it: what evaluation is built from."""
    from seglab.inference import Protocol
    from seglab.trust import without_weights

    config = without_weights(stored.config)
    base = config["evaluation"] if one_of("protocol", options["protocol"], ("stored", "plain")) == "stored" else {}
    protocol = Protocol.of(base, options["evaluation"])
    data = overlaid(config["data"], options["data"])
    split = options["split"]
    precision = options["trainer"]["precision"] or config["trainer"].get("precision")
    return {
        **config,
        "data": {**data, "splits": {**data["splits"], "test": data["splits"].get(split, split)}},
        "augment": {**config["augment"], "extra": []},  # used in training only, and of any package
        "evaluation": {"_target_": "seglab.inference.Protocol", **asdict(protocol)},
        "metrics": options.get("metrics") or config["metrics"],
        "trainer": {**options["trainer"], "precision": precision, "max_steps": 1, "enable_checkpointing": False},
        "optim": None,
        "seed": config.get("seed", 0),
        "callbacks": {
            **(options.get("callbacks") or {}),
            "progress": {"_target_": "seglab.callbacks.progress.Progress"},
            "images": {**IMAGES, "count": options["images"]},
        },
        "logger": {},
    }


def overlaid(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration node with another laid over it; null means: as before."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = overlaid(merged[key], value)
        elif value is not None:
            merged[key] = value
    return merged


def check_data(data: DataModule, stored: Description, options: Mapping[str, Any]) -> None:
    """Refuse data that the network cannot be scored on.

    Raises:
        ConfigError: a split that is not there.
        CheckpointError: another number of classes, or the same in another order.
        DataError: a split whose labels were not published.
    """
    missing = [split for split in data.splits["test"] if split not in data.source.splits]
    if missing or not data.splits["test"]:
        raise ConfigError(
            f"split={options['split']}: {data.spec.name} has no such split — expected train, val or test as in the "
            f"checkpoint's data.splits, or one of its own: {', '.join(data.source.splits)}; e.g. split=val"
        )
    if data.spec.num_classes != stored.spec.num_classes:
        raise CheckpointError(
            f"{stored.path} predicts {stored.spec.num_classes} classes ({stored.spec.name}); the data has "
            f"{data.spec.num_classes} ({data.spec.name}) — expected the classes it was trained on; check data.root, or "
            "start a run from what fits with seglab.train init_from="
        )
    check_names(data.spec.classes, stored, options["class_order"])
    closed = [split for split in data.splits["test"] if split in getattr(data.source, "unlabelled", ())]
    if closed:
        raise DataError(
            f"the split {closed[0]} of {data.spec.name} has no public labels, so it cannot be scored — expected a "
            f"split with labels, e.g. split=val; python -m seglab.predict ckpt={stored.path} source=… "
            "writes its predictions"
        )


def check_names(classes: Sequence[str], stored: Description, order: str) -> None:
    """Refuse classes of which one has another id than in the checkpoint: its IoU would be another class's.

    Raises:
        CheckpointError: unless ``order`` is ``ignore``.
    """
    if classes == stored.spec.classes:
        return
    trained = {name: k for k, name in enumerate(stored.spec.classes)}
    moved = [name for k, name in enumerate(classes) if trained.get(name, k) != k]
    if moved and order == "refuse":
        name = moved[0]
        raise CheckpointError(
            f"{stored.path}: {len(moved)} of its {len(trained)} classes have another id in the data, e.g. {name}: "
            f"{trained[name]} in the checkpoint, {classes.index(name)} in the data — expected the checkpoint's order: "
            f"{first(trained)}; mend the class file, and data.dataset.label_map where the label files count otherwise "
            "too; class_order=ignore scores id by id under the data's names"
        )
    log.warning("the data's class names differ from the checkpoint's: is this the set it was trained on?")


def report(
    module: TrainingModule,
    logged: Mapping[str, float],
    stored: Description,
    data: DataModule,
    options: Mapping[str, Any],
    run: RunFolder,
) -> None:
    """Table, JSON and figures of the test split of the data."""
    from rich.console import Console

    from seglab import visualize
    from seglab.runs import atomic

    own, corruption = data.split("test"), data.corruption  # the data set's name of the split that was asked for
    task, results, part = module.task, module.results, options["trainer"]["limit_test_batches"]
    split = options["split"] + ("-oracle" if options["oracle"] else "")
    about = {
        "ckpt": str(stored.path), "step": stored.step, **task.spec.record(), "split": options["split"],
        "uses_labels": bool(options["oracle"]), "whole_split": part is None, "protocol": asdict(task.protocol),
        "predictor": options["predictor"], "corruption": corruption and corruption.record(),
        "names": list(task.spec.classes),
    }  # fmt: skip
    if task.refinement is not None and (networks := task.refinement.networks()):
        about["networks"] = networks
    scores = {"split": own, **results.plain}
    found = {f"{split}/{name}": value for name, value in {**logged, **scores}.items()}
    # Not added to those of another evaluation.
    atomic.write_json(run.path / "metrics.json", atomic.jsonable({**about, **found}))
    for name, rows in task.tables(results.values).items():
        atomic.write_text(run.path / f"{name}.csv", "".join(";".join(map(str, row)) + "\n" for row in rows))
    title = f"{task.spec.title} {split}" + (f" (split {own})" if own != options["split"] else "")
    title += f", {corruption}" if corruption else ""
    console = Console(soft_wrap=True)
    console.print(task.summary(results.values, title))
    if options["oracle"]:
        console.print("USES LABELS: this is the ground-truth branch, an upper bound and not a result")
    if part:
        console.print(f"A PART of the split only (trainer.limit_test_batches={part}): not a result")
    for name, figure in task.figures(results.values, title).items():
        visualize.save(figure, run.path / f"{name}.png")
    console.print(f"results: {run.path}")


def main() -> None:
    """Entry point."""
    cli.run(evaluate, "evaluate")


if __name__ == "__main__":
    main()

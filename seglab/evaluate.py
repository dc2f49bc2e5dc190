"""Evaluate: ``python -m seglab.evaluate ckpt=… [split=val] [evaluation.flip=true] [oracle=true]``.

The checkpoint brings its configuration; the module that validates in training is tested by the same Trainer, so the
numbers are equal. The output folder holds ``metrics.json`` (fractions, per-class lists), ``confusion.png``,
``confusion.csv`` and ``pictures/``.
"""

from __future__ import annotations

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
    import lightning as L

    from seglab.checkpoint import Description
    from seglab.data import DataModule
    from seglab.module import SegmentationModule
    from seglab.runs.folder import RunFolder

log = logging.getLogger(__name__)

PARTS = ("data", "augment", "loss", "task")
"""Nodes of a checkpoint's configuration that evaluation builds, beside the network's."""

OF_TRAINING = (
    "progress", "checkpoints", "preemption", "nonfinite", "class_table", "pictures", "status", "ema", "learning_rate",
    "loss_components", "pruning",
)  # fmt: skip
"""Callbacks that an option of the group brings along and that have nothing to do here."""


def evaluate(cfg: DictConfig) -> float:
    """One evaluation as Hydra composed it; gives the mIoU."""
    return score(cli.plain(cfg))["mIoU"]


def score(options: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a checkpoint on a split and write the results; gives the metrics, unprefixed.

    Args:
        options: the resolved ``conf/evaluate.yaml`` as plain containers.

    Raises:
        UserError: a checkpoint, data or options that do not go together.
    """
    known.check(options, known.EVALUATE)

    from seglab import loggers
    from seglab.runs.folder import RunFolder

    folder = Path(options["output"])
    if (folder / "checkpoints").is_dir():
        raise ConfigError(
            f"output={folder} holds a training run — expected a folder of its own; choose another output="
        )
    with RunFolder(folder, "evaluate", at_end=loggers.close) as run:
        return test(options, run)


def test(options: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """The work of :func:`score` inside its folder."""
    from seglab import build, checkpoint, trust

    tensors, stored = checkpoint.open_file(options["ckpt"], allow_nonfinite=options["allow_nonfinite"])
    try:
        config = configuration(stored, options)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{stored.path}: its configuration is damaged ({error!r}) — expected data, evaluation and trainer as "
            "training stores them; seglab.predict needs less of it"
        ) from error
    if not options["trust"]:
        trust.check(config, PARTS, str(stored.path))
    # An exported network has no heads: their loss terms are left out.
    lacking = [
        head for head in config.get("heads") or {} if not any(name.startswith(f"heads.{head}.") for name in tensors)
    ]
    criterion = build.build_criterion(config).without(lacking)
    model = build.network(tensors, stored, options["trust"], criterion)
    data = build.build_data(config)
    check_data(data, stored, options)
    module = build.build_module(config, data.spec, oracle=options["oracle"], model=model, criterion=criterion)
    if options["oracle"]:
        check_oracle(module)
    run.describe(config, [f"{key}={options[key]}" for key in ("ckpt", "split", "oracle")], config["seed"])

    trainer = build.build_trainer(config, str(run.path))
    trainer.test(module, datamodule=data, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "step"}
        logged = {name.removeprefix("test/"): value for name, value in values.items()}
        report(module, logged, stored, data.split("test"), options, run)
        draw(trainer, module, data, options["pictures"], run.path / "pictures")
    return module.results


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
        "metrics": options["metrics"],
        "trainer": {**options["trainer"], "precision": precision, "max_steps": 1, "enable_checkpointing": False},
        "optim": None,
        "seed": config.get("seed", 0),
        "callbacks": {
            "progress": {"_target_": "seglab.callbacks.progress.Progress"},
            **{name: node for name, node in (options.get("callbacks") or {}).items() if name not in OF_TRAINING},
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


def check_oracle(module: SegmentationModule) -> None:
    """Refuse the ground-truth branch where there is none or nothing trained it.

    Raises:
        ConfigError: says which of the two.
    """
    name = type(module.model.classifier).__name__
    if "oracle" not in module.model.classifier.Output.branches():
        raise ConfigError(
            f"oracle=true: {name} has no branch that reads the labels — expected e.g. CAC or SSA; set oracle=false"
        )
    if "oracle" not in module.criterion.branches:
        raise ConfigError(
            f"oracle=true: no loss term trained {name}'s ground-truth branch — expected a checkpoint whose losses read "
            "'oracle'; set oracle=false"
        )


def report(
    module: SegmentationModule,
    losses: Mapping[str, float],
    stored: Description,
    own: str,
    options: Mapping[str, Any],
    run: RunFolder,
) -> None:
    """Table, JSON and confusion matrix; ``own`` is the data set's name of the split that was asked for."""
    from rich.console import Console

    from seglab import visualize
    from seglab.runs import atomic
    from seglab.runs.atomic import jsonable

    split = options["split"] + ("-oracle" if options["oracle"] else "")
    results, spec, part = module.results, module.spec, options["trainer"]["limit_test_batches"]
    about = {
        "ckpt": str(stored.path), "step": stored.step, "dataset": spec.name, "split": options["split"],
        "uses_labels": bool(options["oracle"]), "whole_split": part is None, "protocol": asdict(module.protocol),
        "names": list(spec.classes),
    }  # fmt: skip
    scores = {"split": own, **{name: value for name, value in results.items() if name != "matrix"}}
    found = {f"{split}/{name}": value for name, value in {**losses, **scores}.items()}
    atomic.write_json(
        run.path / "metrics.json", jsonable({**about, **found})
    )  # not added to those of another evaluation
    rows = zip(spec.classes, results["matrix"].tolist(), strict=True)
    table = [["label \\ prediction", *spec.classes], *([name, *counts] for name, counts in rows)]
    atomic.write_text(run.path / "confusion.csv", "".join(";".join(map(str, row)) + "\n" for row in table))
    title = f"{spec.name} {split}" + (f" (split {own})" if own != options["split"] else "")
    console = Console(soft_wrap=True)
    console.print(visualize.class_table(results, spec.classes, title))
    if options["oracle"]:
        console.print("USES LABELS: this is the ground-truth branch, an upper bound and not a result")
    if part:
        console.print(f"A PART of the split only (trainer.limit_test_batches={part}): not a result")
    heading = f"{title}: mIoU {visualize.percent(results['mIoU'])}"
    visualize.save(visualize.confusion_picture(results["matrix"], spec.classes, heading), run.path / "confusion.png")
    console.print(f"results: {run.path}")


def draw(trainer: L.Trainer, module: SegmentationModule, data: DataModule, count: int, folder: Path) -> None:
    """Strips of image, label, prediction and error of some pictures, spread over the split."""
    import numpy as np
    import torch

    from seglab import visualize
    from seglab.data.targets import planes
    from seglab.inference import infer
    from seglab.ops.resize import resize_argmax

    def network(view: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        output = module(view, label)
        return output.oracle if module.oracle else output.logits

    items = data.items("test")
    device = trainer.strategy.root_device
    module.to(device).eval()
    for index in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)):
        sample = items.read(int(index))
        assert sample.label is not None
        image = module.model.normalise(planes(sample.image)[None].to(device))
        label = torch.from_numpy(sample.label).long()[None].to(device)
        with trainer.precision_plugin.forward_context():
            scores = infer(network, image, module.protocol, sample.label.shape, label)
        prediction = resize_argmax(scores, sample.label.shape)[0].byte().cpu().numpy()
        picture = visualize.strip(sample.image, sample.label, prediction, module.spec.classes, module.spec.palette)
        visualize.save(picture, folder / f"{sample.name}.png")


def main() -> None:
    """Entry point."""
    cli.run(evaluate, "evaluate")


if __name__ == "__main__":
    main()

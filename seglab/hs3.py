"""Plan HS3: ``python -m seglab.hs3 run=PROBE_RUN``: which clusters of classes each layer of a network is to learn.

The probe is a run with ``regularizer=deep_supervision`` that left a part of its training split out
(``data.fraction=0.9``). On that part, which nothing has seen, a confusion matrix of each supervised layer is counted;
curves, clusters and the choice follow from these (:mod:`seglab.hierarchy.clusters`). Written are ``hs3_plan.json`` and
``hs3_plan.png``, the curves with what was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab import checks, cli
from seglab import options as known
from seglab.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from seglab.checkpoint import Description
    from seglab.data.datamodule import DataModule
    from seglab.hierarchy.plan import Plan
    from seglab.losses.base import Criterion
    from seglab.tasks.base import Task

log = logging.getLogger(__name__)

FINAL = "final"
"""What the network's own prediction is called beside its layers."""
PROBE = "python -m seglab.train regularizer=deep_supervision data.fraction=0.9"


def plan(cfg: DictConfig) -> None:
    """One plan as Hydra composed it."""
    make(cli.to_containers(cfg))


def make(options: Mapping[str, Any]) -> Plan:
    """Count, choose, write the plan and its image; gives the plan.

    Args:
        options: the resolved ``conf/hs3.yaml`` as plain containers.

    Raises:
        UserError: a run that is no probe, options out of range, data that are not those of the run.
    """
    known.check(options, known.HS3)

    from seglab import build, checkpoint, loading, trust
    from seglab.checksum import checksum
    from seglab.evaluate import check_names, overlaid
    from seglab.hierarchy import figure
    from seglab.hierarchy import plan as plans
    from seglab.predictors.base import choose_device
    from seglab.version import __version__

    checks.one_of("none_fits", options["none_fits"], plans.NONE_FITS)
    device = choose_device(options["device"])
    run = Path(options["run"])
    ckpt = run / "checkpoints/last.ckpt"
    if not ckpt.is_file():
        raise ConfigError(f"run={run} has no checkpoints/last.ckpt — expected the folder of a finished run of {PROBE}")
    tensors, stored = checkpoint.open_file(ckpt, allow_nonfinite=options["allow_nonfinite"])
    criterion = loading.criterion_of(tensors, stored, options["trust"])
    branches = supervised(criterion, run, options["layers"])
    config = trust.without_weights(stored.config)
    config |= {"data": overlaid(config["data"], options["data"]), "augment": {**config["augment"], "extra": []}}
    if not options["trust"]:
        trust.check(config, ["data", "augment"], str(ckpt))
    kind = loading.kind_of(stored, options["trust"])
    data = build.build_data(config, kind.NEEDS)
    check_data(data, stored, run)
    check_names(data.spec.classes, stored, "refuse")
    if config.get("init_from"):
        log.warning(
            "the probe began with the weights of %s: what these were trained on counts too", config["init_from"]
        )
    task = loading.opened(tensors, stored, options["trust"], criterion, {}, config).task
    matrices = count(task.to(device).eval(), data, branches, device)
    about = {
        "checkpoint": checksum(tensors), "run": run.name, "step": stored.step, "dataset": data.spec.name,
        "split": data.split("train"), "images": len(data.unseen()), "of": len(data.unseen()) + len(data.items("train")),
        "fraction": data.fraction, "seed": data.seed, "fingerprint": data.fingerprint(),
    }  # fmt: skip
    made = planned(matrices, data.spec.classes, options["tan_theta"], options["none_fits"], about)
    output = Path(options["output"]) if options["output"] else run / plans.FILE
    plans.write(made, output, __version__)
    image = output.with_suffix(".png")
    figure.save(made, image)
    show(made, output, image)
    return made


def supervised(criterion: Criterion, run: Path, layers: list[str] | None) -> dict[str, str]:
    """Layer -> branch of the layers whose heads have learnt all classes, those that are asked for.

    Raises:
        ConfigError: there are none, or one is not there.
    """
    from seglab.losses.layers import LayerSupervision

    found: dict[str, str] = {}
    for _, term in criterion.named():
        if isinstance(term, LayerSupervision):
            pairs = zip(term.tasks.items(), term.branches, strict=True)
            whole = {layer: branch for (layer, clusters), branch in pairs if clusters is None}
            found = whole | found
    if not found:
        raise ConfigError(
            f"run={run} supervised no inner layer with all classes — expected the folder of a run of {PROBE}"
        )
    if unknown := [layer for layer in layers or () if layer not in found]:
        raise ConfigError(f"layers: the run did not supervise {unknown[0]} — expected some of {', '.join(found)}")
    return {layer: found[layer] for layer in layers or found}


def check_data(data: DataModule, stored: Description, run: Path) -> None:
    """Refuse data of which it cannot be said what the run has seen.

    Raises:
        CheckpointError: of another number of classes.
        DataError: other files than those of the run.
    """
    from seglab.runs import atomic

    if data.spec.num_classes != stored.spec.num_classes:
        raise CheckpointError(
            f"{stored.path} was trained on {stored.spec.num_classes} classes ({stored.spec.name}); the data has "
            f"{data.spec.num_classes} ({data.spec.name}) — expected those of the run: set data.root"
        )
    data.unseen()
    trained = (atomic.read_json(run / "provenance.json").get("data") or {}).get("fingerprint")
    if trained != data.fingerprint():
        raise DataError(
            f"the files of {data.spec.name} are not those that {run} was trained on (provenance.json: {trained}), so "
            "that nobody knows which of them it has seen — expected the same files: set data.root, or train the probe "
            f"again with {PROBE}"
        )


def count(task: Task, data: DataModule, branches: Mapping[str, str], device: torch.device) -> dict[str, np.ndarray]:
    """Confusion matrices [K, K] of the layers and, as the last, of the prediction, on the items that training left out.

    Images are tested as the run's protocol says.
    """
    import torch
    from rich.progress import track

    from seglab.inference import height_width
    from seglab.ops.confusion import add_confusion
    from seglab.ops.resize import resize_argmax

    classes = data.spec.num_classes
    zeros = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    matrices = {name: zeros.clone() for name in (*branches, FINAL)}
    observed = frozenset(branches.values())
    with torch.inference_mode():
        for group in track(data.unseen_dataloader(), description="items that the probe did not see"):
            for batch in group:
                moved = batch.map(lambda x: x.to(device))
                seen = task.score(moved, observed)
                scores = {layer: seen.of(itemgetter(branch)).scores for layer, branch in branches.items()}
                for layer, values in {**scores, FINAL: seen.scores}.items():
                    found = resize_argmax(values, height_width(seen.label))
                    add_confusion(matrices[layer], found.to(device), seen.label)
    return {layer: matrix.cpu().numpy() for layer, matrix in matrices.items()}


def planned(
    matrices: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
    tan_theta: float | Mapping[str, float],
    none_fits: str,
    about: Mapping[str, Any],
) -> Plan:
    """The plan of confusion matrices [K, K], that of the prediction under ``final``.

    Raises:
        ConfigError: an angle of a layer that is not there, a single class.
        DataError: no labelled pixel.
    """
    from seglab.hierarchy import clusters as hierarchy
    from seglab.hierarchy.plan import Layer, Plan, angle_of, chosen

    matrix = matrices[FINAL]
    if len(classes) < 2:
        raise ConfigError(
            f"the data has {len(classes)} class, which can be told from nothing — expected two or more: choose other "
            "data=, or set data.dataset.classes and data.dataset.label_map"
        )
    if not matrix.sum():
        raise DataError(
            "no labelled pixel in the part of the training split that the probe did not see — expected labels: check "
            "data.root, or train the probe with a smaller data.fraction"
        )
    absent = [classes[k] for k in range(len(classes)) if not matrix[k].any()]
    if absent:
        log.warning(
            "not in the part that the probe did not see: %s; a smaller data.fraction has more", ", ".join(absent)
        )
    reference = hierarchy.mean_iou(matrix)
    names = [name for name in matrices if name != FINAL]
    layers = []
    for name in names:
        angle = angle_of(name, tan_theta, names, "tan_theta")
        angle = 0.0 if angle is None else angle
        merges = hierarchy.merge_order(matrices[name])
        curve = hierarchy.curve(matrices[name], merges)
        found = chosen(curve, merges, reference, angle, none_fits)
        layers.append(Layer(name, found, angle, tuple(curve), tuple(merges)))
    final = hierarchy.curve(matrix, hierarchy.merge_order(matrix))
    return Plan(tuple(classes), tuple(layers), reference, tuple(final), none_fits, about)


def show(made: Plan, output: Path, image: Path) -> None:
    """Print what was chosen."""
    from rich.console import Console
    from rich.table import Table

    about = made.about or {}
    table = Table(title=f"{about.get('images')} of {about.get('of')} training images, which the probe did not see")
    table.add_column("layer", no_wrap=True)
    for heading in ("clusters", "mIoU of them, %", f"mIoU of all {len(made.classes)}, %"):
        table.add_column(heading, justify="right")
    table.add_column("classes that are one")
    for layer in made.layers:
        k, curve = len(layer.clusters), layer.curve or ()
        together = [" + ".join(made.classes[c] for c in each) for each in layer.clusters if len(each) > 1]
        shown = f"{100 * curve[k - 2]:.2f}" if k else "not supervised"
        table.add_row(layer.name, str(k), shown, f"{100 * curve[-1]:.2f}", "; ".join(together))
    table.add_row(FINAL, str(len(made.classes)), f"{100 * (made.reference or 0):.2f}", "", "")
    console = Console(width=max(Console().width, 100))
    console.print(table)
    console.print(f"plan: {output}; curves: {image}; regularizer=hs3 regularizer.plan={output}", soft_wrap=True)


def main() -> None:
    """Entry point."""
    cli.run(plan, "hs3")


if __name__ == "__main__":
    main()

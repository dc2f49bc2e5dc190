"""How far adapted prototypes move from the static ones, and how alike the prototypes of different classes are.

For every image of the evaluated split, with the static prototype w_k of class k and the adapted one p_k, N images::

    distance = 1 - cos(p_k, w_k)           norm = |p_k - w_k| / |w_k|
    spread   = 1 - |sum p_k / |p_k|| / N   how much p_k differs between images: 0 where it is always the same
    similarity[j, k] = cos(p_j, p_k)       between classes, mean over images

The distance holds all that lies between w_k and p_k: the projector, which is the same for every image, and the
adaptation to the image, which alone makes the spread. A projector may change the scale: the cosine is the measure.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from seglab import visualize
from seglab.callbacks import prototype_figures
from seglab.callbacks.base import EvaluationObserver
from seglab.callbacks.class_table import as_csv
from seglab.callbacks.insight import folder
from seglab.classifiers.base import Classifier
from seglab.errors import ConfigError
from seglab.loggers import log_image
from seglab.models.segmenter import Segmenter
from seglab.runs import atomic
from seglab.runs.atomic import jsonable
from seglab.types import IGNORE

if TYPE_CHECKING:
    from seglab.tasks.base import Task
    from seglab.types import Evaluated

log = logging.getLogger(__name__)

TINY = 1e-12
COLUMNS = ("images", "distance_mean", "distance_sd", "norm_mean", "norm_sd", "spread")


class PrototypeReport(EvaluationObserver):
    """Writes ``insight/prototypes_<stage>_<step>.json`` and ``.csv`` after each evaluation, and the figure
    ``insight/prototypes.png`` (``prototypes_test.png``): movement by class; similarities at the first and last one.

    Every branch of the classifier's output that is called ``…prototypes`` is reported: adapted, oracle (where a loss
    term trains it; its class means are those of an evaluated batch), and SSA's semantic and spatial ones, of which the
    latter start from the position basis. Logged are ``val/prototype_shift`` (mean distance over the classes that
    occur), ``val/prototype_spread`` and ``val/prototype_similarity_<static|adapted|oracle|…>`` (mean off the diagonal).
    Fixed classifiers have the static similarities only.

    It reads what the evaluation computes anyway: no further pass of the network. Several processes add up their sums.
    Two runs are compared by ``python -m seglab.prototypes RUN_A RUN_B``.
    """

    whole_network = True

    def __init__(self) -> None:
        self.movements: dict[str, Movement] = {}
        self.fixed: dict[str, Tensor] = {}
        self.told = False

    def applies(self, task: Task, stage: str) -> bool:
        return isinstance(task.model, Segmenter)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a classifier without static prototypes before anything is trained.

        Raises:
            ConfigError: says which.
        """
        module: Any = pl_module
        classifier = module.task.model.classifier
        weight = getattr(classifier, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or len(weight) != classifier.num_classes:
            raise ConfigError(
                f"callbacks.prototype_report: {type(classifier).__name__} has no static prototypes — expected an "
                "attribute `weight` [K, C]; leave the report out with callbacks.prototype_report=null"
            )
        if not moving(classifier) and not self.told:
            log.info("prototype_report: %s adapts nothing: only its static prototypes", type(classifier).__name__)
            self.told = True
        self.movements = {name: Movement(*weight.shape) for name in moving(classifier)}

    def begin(self, trainer: L.Trainer, module: Any) -> None:
        self.classifier = module.task.model.classifier
        self.fixed = {}
        for movement in self.movements.values():
            movement.to(module.device).reset()

    def observe(self, seen: Evaluated) -> None:
        # Read here because EMA's average is in place while images are evaluated, and only then.
        self.fixed = self.fixed or static(self.classifier)
        for name, movement in self.movements.items():
            found = seen.output.read(branch(name)) if seen.output else None
            size = len(seen.batch)
            per_image = [None] * size if found is None else found.expand(size, *found.shape[-2:])
            for moved, label in zip(per_image, seen.label, strict=True):
                movement.update(self.fixed[reference(name, self.fixed)], moved, label)

    def end(self, trainer: L.Trainer, module: Any) -> None:
        stage, step = module.stage, trainer.global_step
        found = {name: movement.compute() for name, movement in self.movements.items()}  # every process takes part
        report = self.report(found, module.task.spec.classes)
        module.results.add(scalars(report))
        if not trainer.is_global_zero:
            return
        about = {"format": 1, "stage": stage, "step": step, "classifier": type(module.task.model.classifier).__name__}
        target = folder(trainer) / f"prototypes_{stage}_{step:06d}.json"
        atomic.write_text(target, json.dumps(jsonable({**about, **report}), allow_nan=False) + "\n")
        atomic.write_text(target.with_suffix(".csv"), as_csv(table(report)))
        image = visualize.pixels(prototype_figures.overview(*prototype_figures.read(trainer.default_root_dir, stage)))
        visualize.save(image, folder(trainer) / ("prototypes.png" if stage == "val" else f"prototypes_{stage}.png"))
        log_image(trainer, f"{stage}/prototypes", image, step)

    def report(self, found: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> dict[str, Any]:
        """What the file holds: per kind of prototypes the similarities and, for those that move, how far."""
        kinds: dict[str, Any] = {name: {"similarity": similarity(rows)} for name, rows in self.fixed.items()}
        for name, result in found.items():
            if result:
                kinds[name] = {"reference": reference(name, self.fixed), **result}
        for kind in kinds.values():
            kind["mean_similarity"] = prototype_figures.off_diagonal(kind["similarity"]).mean()
            kind["similarity"] = kind["similarity"].cpu().numpy().round(4)
        return {"classes": list(classes), "kinds": kinds}


class Movement(Metric):
    """Sums over images, of this process and then of all, of how far prototypes stand from fixed ones.

    Args:
        num_classes: K.
        channels: C.
    """

    full_state_update = False
    images: Tensor
    sums: Tensor
    directions: Tensor
    similarity: Tensor

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        exact = torch.float64
        # First axis: over all images, and over those in which the class occurs.
        self.add_state("images", torch.zeros(2, num_classes, dtype=exact), dist_reduce_fx="sum")
        # (distance, norm) x (sum, sum of squares)
        self.add_state("sums", torch.zeros(2, 2, 2, num_classes, dtype=exact), dist_reduce_fx="sum")
        self.add_state("directions", torch.zeros(2, num_classes, channels, dtype=exact), dist_reduce_fx="sum")
        self.add_state("similarity", torch.zeros(num_classes, num_classes, dtype=exact), dist_reduce_fx="sum")

    def update(self, fixed: Tensor, moved: Tensor | None, label: Tensor) -> None:
        """One image: prototypes [K, C], if it has any, beside the fixed ones [K, C], and the label [H, W]."""
        if moved is None:
            return
        fixed, moved = fixed.double(), moved.double()
        cosine = torch.cosine_similarity(fixed, moved, dim=-1, eps=TINY)
        norm = (moved - fixed).norm(dim=-1) / fixed.norm(dim=-1).clamp_min(TINY)
        values = torch.stack([1 - cosine, norm])
        occurs = torch.zeros_like(cosine)
        occurs[label[label != IGNORE].unique()] = 1
        over = torch.stack([torch.ones_like(occurs), occurs])
        self.images += over
        self.sums += over[:, None, None] * torch.stack([values, values**2], dim=1)
        self.directions += over[:, :, None] * torch.nn.functional.normalize(moved, dim=-1, eps=TINY)
        self.similarity += similarity(moved)

    def compute(self) -> dict[str, Any]:
        """Means, standard deviations and spreads by class, and the mean similarity [K, K]; empty without an image."""
        if not self.images.any():
            return {}
        n = self.images[:, None]  # [2, 1, K]; 0 / 0 is NaN: no image, no mean
        mean = self.sums[:, :, 0] / n
        squares = (self.sums[:, :, 1] - n * mean**2).clamp_min(0)
        deviation = torch.where(n > 1, (squares / (n - 1)).sqrt(), torch.nan)
        spread = (1 - self.directions.norm(dim=-1) / self.images).clamp_min(0)
        result: dict[str, Any] = {
            over: {
                "images": self.images[i].long(),
                **{
                    f"{value}_{statistic}": numbers[i, j]
                    for j, value in enumerate(("distance", "norm"))
                    for statistic, numbers in (("mean", mean), ("sd", deviation))
                },
                "spread": spread[i],
            }
            for i, over in enumerate(("all", "present"))
        }
        return {**result, "similarity": self.similarity / self.images[0, 0]}


def moving(classifier: Classifier) -> list[str]:
    """Kinds of prototypes that depend on the image or on what was learnt beside the static ones."""
    branches = sorted(name for name in classifier.Output.branches() if name.endswith("prototypes"))
    return ["adapted" if name == "prototypes" else name.removesuffix("_prototypes") for name in branches]


def branch(kind: str) -> str:
    """The output's field that holds a kind."""
    return "prototypes" if kind == "adapted" else f"{kind}_prototypes"


def static(classifier: Any) -> dict[str, Tensor]:
    """The prototypes [K, C] that are the same for every image: the weight and, where there is one, SSA's basis."""
    found = {"static": classifier.weight, "basis": getattr(classifier, "basis", None)}
    return {name: rows.detach().clone() for name, rows in found.items() if isinstance(rows, Tensor)}


def reference(kind: str, fixed: dict[str, Tensor]) -> str:
    """Which fixed prototypes a kind started from."""
    return "basis" if kind.endswith("spatial") and "basis" in fixed else "static"


def similarity(rows: Tensor) -> Tensor:
    """Cosines [K, K] between prototypes [K, C]."""
    unit = torch.nn.functional.normalize(rows.double(), dim=-1, eps=TINY)
    return unit @ unit.T


def scalars(report: dict[str, Any]) -> dict[str, float]:
    """What is logged; nothing is where nothing occurs."""
    kinds = report["kinds"]
    values = {f"prototype_similarity_{name}": kind["mean_similarity"] for name, kind in kinds.items()}
    if "adapted" in kinds:
        seen = kinds["adapted"]["present"]
        values["prototype_shift"] = seen["distance_mean"].nanmean()
        values["prototype_spread"] = seen["spread"].nanmean()
    return {name: float(value) for name, value in values.items() if value == value}


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per kind, class and choice of images; of the fixed kinds the mean similarity to other classes only."""
    rows = []
    for name, kind in report["kinds"].items():
        others = prototype_figures.to_others(kind["similarity"])
        for over in ("present", "all"):
            values = {key: column.tolist() for key, column in kind.get(over, {}).items()}
            for k, class_name in enumerate(report["classes"]):
                about = {"prototypes": name, "class": class_name, "over": over}
                columns = {key: values[key][k] if key in values else "" for key in COLUMNS}
                rows.append({**about, **columns, "similarity": float(others[k])})
    return rows

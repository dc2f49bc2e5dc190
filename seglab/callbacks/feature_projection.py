"""Pixel features and prototypes of one image in two dimensions, as the papers draw them.

t-SNE: van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 2008. It keeps neighbours: the distance between two
clusters, and a cluster's size, mean nothing. PCA keeps directions of large variance, and distances along them.

What is drawn is what the classifier compares. With the cosine, pixels and prototypes are divided by their norms, so
that the distance on the unit sphere is the angle. With the dot product, the prototypes are brought to the pixels' mean
norm: their direction is shown, and their length is not. SSA compares the feature plus its position encoding.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from seglab import visualize
from seglab.callbacks.base import Callback
from seglab.callbacks.class_table import as_csv
from seglab.callbacks.insight import folder
from seglab.checks import one_of, within
from seglab.data.targets import planes
from seglab.errors import ConfigError
from seglab.loggers import log_image
from seglab.models.segmenter import Segmenter
from seglab.ops.resize import downsample_labels
from seglab.runs import atomic
from seglab.types import FEATURE, IGNORE, Batch, Output

if TYPE_CHECKING:
    from seglab.data.spec import DatasetSpec
    from seglab.tasks.base import Task

log = logging.getLogger(__name__)

KEY = "callbacks.feature_projection"
PROTOTYPES = {"static": "*", "adapted": "D", "oracle": "P"}
"""Kinds of prototypes and their markers."""
PIXELS = ("o", "s", "^", "v", "<", ">", "X", "p", "d", "h")
"""Markers of pixels, class after class: colours alone do not tell classes apart for everyone."""


@dataclass
class Points:
    """What is projected."""

    vectors: np.ndarray
    """[n, C] float64: pixels first, then prototypes."""
    classes: np.ndarray
    """[n] train ids."""
    kinds: list[str]
    """``pixel`` or a kind of prototypes."""
    places: list[tuple[int, int] | None]
    """Row and column of a pixel in the feature map."""


class FeatureProjection(Callback):
    """Writes ``insight/projection_<stage>_<step>_<method>.png``, with the image and its label, and the coordinates
    as ``.csv``; loggers get the figure. One image goes through the network once more, in the first process.

    Args:
        image: of the validation split, also after the test: its number, or its name (the last part is enough).
        pixels: at most so many of each class, drawn at random.
        method: tsne or pca.
        perplexity: of t-SNE; less where there are few points.
        seed: of the choice of pixels and of t-SNE.
        when: every validation, or the last only. The test is always drawn.

    Raises:
        ConfigError: an option out of range.
    """

    whole_network = True

    def __init__(
        self,
        image: int | str = 0,
        pixels: int = 150,
        method: str = "tsne",
        perplexity: float = 30.0,
        seed: int = 0,
        when: str = "last",
    ) -> None:
        if isinstance(image, bool) or not isinstance(image, int | str):
            raise ConfigError(f"{KEY}.image={image} — expected a number or a name of the validation split")
        for name, value, least in (("pixels", pixels, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{KEY}.{name}={value} — expected a whole number of at least {least}")
        self.image = image
        self.pixels = pixels
        self.method = one_of(f"{KEY}.method", method, ("tsne", "pca"))
        self.perplexity = within(f"{KEY}.perplexity", perplexity, 1)
        self.seed = seed
        self.when = one_of(f"{KEY}.when", when, ("every", "last"))
        self.drawn: tuple[Any, Points] | None = None

    def applies(self, task: Task, stage: str) -> bool:
        return isinstance(task.model, Segmenter)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the image and the library before anything is trained.

        Raises:
            ConfigError: one of them is missing.
        """
        if importlib.util.find_spec("sklearn") is None:
            raise ConfigError(
                f"{KEY} needs scikit-learn, which is not installed — pip install 'seglab[insight]', or leave it out "
                f"with {KEY}=null"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError(f"{KEY} without a DataModule — expected trainer.fit(module, datamodule=…)")
        self.index = find(self.image, data.names("val"))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Among the images, because EMA's average is in place while they are evaluated, and only then.
        if batch_idx > 0 or trainer.sanity_checking or not trainer.is_global_zero:
            return
        if trainer.testing or self.when == "every" or last(trainer):
            self.drawn = self.look(trainer, pl_module)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.drawn is None:
            return
        (sample, points), self.drawn = self.drawn, None
        module: Any = pl_module
        spec, stage, step = module.task.spec, module.stage, trainer.global_step
        if len(points.kinds) < 3 or not np.isfinite(points.vectors).all():
            reason = (
                "has fewer than two labelled pixels" if len(points.kinds) < 3 else "gives features that are not finite"
            )
            log.warning("%s: %s %s — not drawn", KEY, sample.name, reason)
            return
        flat, axes = self.project(points.vectors)
        target = folder(trainer) / f"projection_{stage}_{step:06d}_{self.method}"
        atomic.write_text(target.with_suffix(".csv"), as_csv(table(points, flat, spec)))
        title = f"{type(module.task.model.classifier).__name__}, {sample.name}, {stage} at step {step}"
        shown = draw(sample, points, flat, spec, title, axes)
        visualize.save(shown, target.with_suffix(".png"))
        log_image(trainer, f"{stage}/projection", shown, step)

    on_test_end = on_validation_end

    @torch.no_grad()
    def look(self, trainer: L.Trainer, module: Any) -> tuple[Any, Points]:
        """The stored image, and what the network makes of it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sample = data.items("val").read(self.index)
        if sample.label is None:
            raise ConfigError(f"{KEY}.image={self.image} has no label — choose an image that has one")
        pixels = planes(sample.image)[None].to(module.device)
        label = torch.from_numpy(np.array(sample.label)).long()[None].to(module.device)
        image, protocol = module.task.model.normalise(pixels), module.task.protocol
        # What the loss of an evaluation sees: the single view, or the image as it is where there are several.
        if protocol.single_pass and protocol.divisor_mode == "resize":
            image = protocol.view(image)
        with trainer.precision_plugin.forward_context():
            batch = Batch(image=image, names=(sample.name,), label=label)
            output = module.task.output(batch, frozenset({FEATURE}))
        return sample, self.choose(module.task.model.classifier, output.extra[FEATURE], output, label)

    def choose(self, classifier: Any, feature: Tensor, output: Output, label: Tensor) -> Points:
        """Pixels of a feature map [1, C, h, w] for each class of the label [1, H, W], and these classes' prototypes."""
        position = getattr(output, "position", None)
        compared = feature.double() if position is None else feature.double() + position.double()
        ids = downsample_labels(label, feature.shape[-2:])[0].cpu().numpy()
        generator = np.random.default_rng(self.seed)
        present = [int(k) for k in np.unique(ids) if k != IGNORE]
        places = [
            place for k in present for place in generator.permutation(np.argwhere(ids == k))[: self.pixels].tolist()
        ]
        rows, columns = np.array(places, int).reshape(-1, 2).T
        found = compared[0].cpu().numpy()[:, rows, columns].T
        vectors, kinds, classes = [found], ["pixel"] * len(found), [ids[rows, columns]]
        branches = {
            "static": getattr(classifier, "weight", None),
            "adapted": getattr(output, "prototypes", None),
            "oracle": getattr(output, "oracle_prototypes", None),
        }
        for kind, prototypes in branches.items():
            if isinstance(prototypes, Tensor):
                one = prototypes.detach().double().reshape(-1, *prototypes.shape[-2:])[0]  # [K, C], or [1, K, C]
                vectors.append(one.cpu().numpy()[present])
                kinds += [kind] * len(present)
                classes.append(np.array(present, int))
        scaled = [normalised(x) for x in vectors]
        if getattr(getattr(classifier, "similarity", None), "kind", "dot") != "cosine":
            length = np.linalg.norm(found, axis=1).mean() if len(found) else 1.0
            scaled = [found, *(length * x for x in scaled[1:])]
        spots: list[tuple[int, int] | None] = [(int(y), int(x)) for y, x in places]
        return Points(
            np.concatenate(scaled), np.concatenate(classes), kinds, spots + [None] * (len(kinds) - len(spots))
        )

    def project(self, vectors: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
        """Coordinates [n, 2] and what the axes are."""
        if self.method == "pca":
            from sklearn.decomposition import PCA

            pca = PCA(2, svd_solver="full")
            flat = pca.fit_transform(vectors)
            first, second = (f"{100 * share:.0f} % of the variance" for share in pca.explained_variance_ratio_)
            return flat, (f"1st component, {first}", f"2nd component, {second}")
        from sklearn.manifold import TSNE

        # A point has fewer neighbours than there are points.
        perplexity = min(self.perplexity, max(1.0, (len(vectors) - 1) / 3))
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=self.seed)
        return tsne.fit_transform(vectors.astype(np.float32)), (f"t-SNE, perplexity {perplexity:.3g}", "")


def find(image: int | str, names: list[str]) -> int:
    """The image's number among the names of the validation split.

    Raises:
        ConfigError: there is none, or several.
    """
    if isinstance(image, int):
        if not 0 <= image < len(names):
            raise ConfigError(
                f"{KEY}.image={image} — the validation split has {len(names)} images; expected 0 to {len(names) - 1}"
            )
        return image
    fitting = [i for i, name in enumerate(names) if name == image] or [
        i for i, name in enumerate(names) if name.rsplit("/", 1)[-1] == image
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{KEY}.image={image} is the name of {len(fitting)} images — expected one of them in full, e.g. "
            f"{names[fitting[0]]}"
        )
    parts = {key: name for name in names for key in (name.rsplit("/", 1)[-1], name)}
    close = list(dict.fromkeys(parts[key] for key in difflib.get_close_matches(image, list(parts), n=3, cutoff=0.5)))
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected a name like {names[0]}, or a number"
    raise ConfigError(f"{KEY}.image={image} is no image of the validation split — {hint}")


def last(trainer: L.Trainer) -> bool:
    """Whether no validation of this training follows; true outside of training."""
    if trainer.state.fn != "fit" or trainer.val_check_batch is None:
        return True
    interval = trainer.val_check_batch / trainer.accumulate_grad_batches
    return trainer.max_steps > 0 and trainer.global_step + interval > trainer.max_steps


def normalised(vectors: np.ndarray) -> np.ndarray:
    """[n, C] divided by the norms; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def table(points: Points, flat: np.ndarray, spec: DatasetSpec) -> list[dict[str, Any]]:
    """One row per point."""
    return [
        {
            "kind": kind, "class": spec.classes[k], "x": float(x), "y": float(y),
            "row": "" if place is None else place[0], "column": "" if place is None else place[1],
        }
        for kind, k, (x, y), place in zip(points.kinds, points.classes, flat, points.places, strict=True)
    ]  # fmt: skip


def draw(
    sample: Any, points: Points, flat: np.ndarray, spec: DatasetSpec, title: str, axes_names: tuple[str, str]
) -> np.ndarray:
    """Image and label on the left, points on the right, legends below; [H, W, 3] uint8."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 7), layout="constrained", dpi=150)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 2.1])
    for row, (name, panel) in enumerate(
        {"image": sample.image, "label": visualize.colour_map(sample.label, spec.palette)}.items()
    ):
        small = figure.add_subplot(grid[row, 0])
        small.imshow(panel)
        small.set_title(name, fontsize=10)
        small.set_axis_off()
    axes = figure.add_subplot(grid[:, 1])
    kinds = np.array(points.kinds)
    present = sorted({int(k) for k in points.classes})
    colours = {k: tuple(channel / 255 for channel in spec.palette[k]) for k in present}
    shapes = {k: PIXELS[i % len(PIXELS)] for i, k in enumerate(present)}
    for k in present:
        spots = flat[(kinds == "pixel") & (points.classes == k)]
        axes.scatter(
            spots[:, 0],
            spots[:, 1],
            s=16,
            marker=shapes[k],
            color=[colours[k]],
            edgecolors="0.25",
            linewidths=0.25,
            alpha=0.75,
        )
    # On top of the pixels, in black and white around the class's colour.
    sizes = {"static": 260, "adapted": 110, "oracle": 150}
    for kind, marker in PROTOTYPES.items():
        chosen = kinds == kind
        for width, edge in ((3.2, "white"), (1.3, "black")):
            axes.scatter(
                flat[chosen, 0], flat[chosen, 1], s=sizes[kind], marker=marker, edgecolors=edge, linewidths=width,
                c=[colours[int(k)] for k in points.classes[chosen]], zorder=3,
            )  # fmt: skip
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[])
    figure.suptitle(title, fontsize=11)
    axes.margins(0.06)

    def entry(marker: str, size: float, label: str, colour: Any) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=marker, markersize=size, color=colour, markeredgecolor="black", label=label
        )

    classes = [entry(shapes[k], 7, spec.classes[k], colours[k]) for k in present]
    kept = [kind for kind in PROTOTYPES if kind in points.kinds]
    markers = [entry(PROTOTYPES[kind], 12 if kind == "static" else 9, f"{kind} prototype", "white") for kind in kept]
    axes.legend(handles=markers, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    figure.legend(handles=classes, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return visualize.pixels(figure)

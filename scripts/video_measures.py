"""What measures of video consistency rank rightly, on the embedded scenes: ``python scripts/video_measures.py``.

Predictions are made of the labels of moving scenes: right ones, ones with a share of wrong cells, new in every frame,
and the first frame's labels held still (static and wrong). ``video_measures.png`` shows flicker, TC with the exact
flow, TC with zero flow, and perceptual consistency (PC) of all of them: zero flow is a wrong one here, and takes what
stands still for consistent. PC compares neighbouring frames at the stride of its features: what it says of the static
prediction depends on how far scenes move between frames (``--rate``). ``video_measures.csv`` holds the same numbers,
and how well right pixels are told from wrong ones by a confidence that knows nothing (0.5 by construction) and by that
times PC. Needs the feature extractor's weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglab import figures, visualize
from seglab.backbones.extractor import Extractor
from seglab.data.scenes import Scenes
from seglab.flow import Zero
from seglab.metrics import Flicker, PerceptualConsistency, TemporalConsistency
from seglab.runs import atomic
from seglab.types import Batch, Evaluated

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3)
"""Of wrong cells."""
CELL = 8
"""Pixels along a side of what is wrong together."""
STATIC = "held still"
MEASURES = ("1 - flicker", "TC, exact flow", "TC, zero flow", "PC")
SURE = 6.0
"""Logit of the predicted class."""

Predict = Callable[[Tensor], Tensor]
"""Class ids [T, H, W] of labels [T, H, W]."""


def videos(scenes: Scenes, count: int, frames: int) -> list[Batch]:
    """Each video as one batch of its frames, with the exact flow."""
    found = []
    for video in range(count):
        places = range(video * frames, (video + 1) * frames)
        samples = [scenes.read("val", index) for index in places]
        flows = [scenes.flow("val", index, 1) for index in places]
        label = np.stack([sample.label for sample in samples if sample.label is not None])
        found.append(
            Batch(
                image=torch.from_numpy(np.stack([sample.image for sample in samples])).movedim(-1, 1),
                names=tuple(sample.name for sample in samples),
                label=torch.from_numpy(label).long(),
                flow=torch.from_numpy(np.stack(flows)).movedim(-1, 1),
                sequence=(str(video),) * frames,
            )
        )
    return found


def noisy(share: float, classes: int, seed: int = 0) -> Predict:
    """Labels with a share of cells of another class, drawn anew for every frame."""
    random = torch.Generator().manual_seed(seed)

    def predict(label: Tensor) -> Tensor:
        frames, height, width = label.shape
        cells = (frames, -(-height // CELL), -(-width // CELL))
        wrong = torch.rand(cells, generator=random) < share
        other = torch.randint(1, classes, cells, generator=random)
        step = (other * wrong).repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, :height, :width]
        return (label + step) % classes

    return predict


def static(classes: int) -> Predict:
    """The first frame's labels in every frame; void is some class, as with :func:`noisy`."""
    return lambda label: (label[:1] % classes).expand_as(label)


def measured(batches: Sequence[Batch], predict: Predict, classes: int, extractor: Extractor) -> dict[str, float]:
    """Every measure of predictions, and the ranking of their correctness."""
    metrics: dict[str, Any] = {
        "flicker": Flicker(classes),
        "exact": TemporalConsistency(classes),
        "zero": TemporalConsistency(classes, Zero()),
        "perceptual": PerceptualConsistency(classes, extractor),
    }
    for batch in batches:
        assert batch.label is not None, "scenes have labels"
        ids = predict(batch.label)
        scores = SURE * torch.nn.functional.one_hot(ids, classes).movedim(-1, 1).float()
        for metric in metrics.values():
            metric.update(Evaluated(batch=replace(batch), scores=scores))
    found = {name: metric.compute() for name, metric in metrics.items()}
    values = (1 - found["flicker"]["flicker"], found["exact"]["TC"], found["zero"]["TC"], found["perceptual"]["PC"])
    ranking = {key: found["perceptual"][key] for key in ("AUROC_confidence", "AUROC_PC", "AP_confidence", "AP_PC")}
    return dict(zip(MEASURES, values, strict=True)) | ranking


def chart(rows: dict[str, dict[str, float]]) -> np.ndarray:
    """One panel per measure: noise levels as a line, the static prediction as a cross at its right."""
    levels = [name for name in rows if name != STATIC]
    with figures.house():
        figure = figures.figure(figures.PAGE, 2.3)
        figure.set_dpi(150)
        for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
            values = [100 * rows[name][measure] for name in levels]
            axes.plot(range(len(levels)), values, "o-", color=figures.BLUE, label="moving, a share of it wrong")
            axes.plot(
                [len(levels)], [100 * rows[STATIC][measure]], "x", color=figures.VERMILION, label="held still: wrong"
            )
            axes.axhline(values[0], color=figures.GREY, linewidth=0.6, linestyle=":")
            axes.set_xticks(range(len(rows)), [*levels, "still"], rotation=45)
            axes.set(title=f"{measure} (%)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return visualize.pixels(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=12, help="of each video")
    parser.add_argument("--rate", type=float, default=2.0, help="frames a second")
    parser.add_argument("--size", type=int, nargs=2, default=(144, 192), help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extractor", default="tf_efficientnet_lite0.in1k", help="a timm network")
    parser.add_argument("--weights", help="its .safetensors or .pth file; default: an installed package")
    parser.add_argument("--untrained", action="store_true", help="random features, to try the program out; no result")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder")
    given = parser.parse_args(arguments)
    if given.videos < 1 or given.frames < 2:
        parser.error(f"--videos {given.videos} --frames {given.frames} — expected at least one video of two frames")
    package = False if given.weights or given.untrained else "package"
    extractor = Extractor(given.extractor, pretrained=package, weights=given.weights, untrained=given.untrained)
    lengths = {"train": 0, "val": given.videos, "test": 0}
    scenes = Scenes(size=given.size, lengths=lengths, seed=given.seed, frames={"val": given.frames}, rate=given.rate)
    batches, classes = videos(scenes, given.videos, given.frames), scenes.spec.num_classes
    ways: dict[str, Predict] = {f"{share:.0%}": noisy(share, classes, given.seed) for share in SHARES}
    rows = {name: measured(batches, way, classes, extractor) for name, way in {**ways, STATIC: static(classes)}.items()}
    table = [["prediction", *rows[STATIC]], *([name, *map(str, row.values())] for name, row in rows.items())]
    atomic.write_text(given.output / "video_measures.csv", "".join(";".join(row) + "\n" for row in table))
    visualize.save(chart(rows), given.output / "video_measures.png")
    for name, row in rows.items():
        print(f"{name:>11}  " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))


if __name__ == "__main__":
    main()

"""Contours of several networks against those of the label: ``python scripts/boundary_errors.py RUN [RUN ...]``.

One row per image of the test split (the validation split of data without one): the image, the label's contours, and
every network's contours under its name, at a distance as ``metrics=boundary`` has it (1, 3 or 5 pixels). Green: found;
red: predicted where there is none; blue: missed. The data come from the first run's configuration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from seglab import build, checkpoint, cli, loading, visualize
from seglab.metrics.boundary_fscore import DISTANCES, NOTHING, contours, matches
from seglab.types import IGNORE

FOUND, FALSE, MISSED, TRUE = (40, 160, 60), (220, 40, 40), (40, 80, 220), (20, 20, 20)
COLOURS = [("found", FOUND), ("predicted, not there", FALSE), ("missed", MISSED)]


def errors(image: np.ndarray, label: np.ndarray, prediction: np.ndarray | None, distance: int) -> np.ndarray:
    """[H, W, 3] the paled image with the contours of a prediction; without one, with those of the label."""
    grey = image.mean(2, keepdims=True).repeat(3, 2)
    shown = (0.3 * grey + 0.7 * 255).astype(np.uint8)
    truth = torch.from_numpy(label.astype(np.int64))[None]
    true = contours(truth)
    if prediction is None:
        shown[(true[0] != NOTHING).numpy()] = TRUE
        return shown
    guess = contours(torch.from_numpy(prediction.astype(np.int64))[None].masked_fill(truth == IGNORE, IGNORE))
    place = DISTANCES.index(distance)
    near, reached = (list(matches(*pair))[place] for pair in ((guess, true), (true, guess)))
    for pixels, colour in (((true != NOTHING) & ~reached, MISSED), ((guess != NOTHING) & ~near, FALSE), (near, FOUND)):
        shown[pixels[0].numpy()] = colour
    return shown


def sheet(images: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]], distance: int, width: int) -> np.ndarray:
    """Rows of (image, label, predictions by name), with a legend."""
    rows = []
    for image, label, predictions in images:
        panels = {"image": image, "label": errors(image, label, None, distance)}
        panels |= {name: errors(image, label, ids, distance) for name, ids in predictions.items()}
        fitted = {name: visualize.fit(panel, width) for name, panel in panels.items()}
        rows.append(visualize.side_by_side([visualize.titled(name, panel) for name, panel in fitted.items()]))
    return visualize.stack([*rows, visualize.legend(COLOURS, rows[0].shape[1])])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders, checkpoints or exported folders")
    parser.add_argument("--names", nargs="+", help="one for each run; default: their folders'")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="indices in the split")
    parser.add_argument("--distance", type=int, choices=DISTANCES, default=3, help="pixels")
    parser.add_argument("--root", help="data.root")
    parser.add_argument("--width", type=int, default=360, help="of a panel, in pixels")
    parser.add_argument("--output", type=Path, default=Path("boundary_errors.png"))
    given = parser.parse_args(arguments)
    names = given.names or [Path(run).name for run in given.runs]
    if len(set(names)) != len(given.runs):
        parser.error(f"--names {' '.join(names)} — expected another name for each of {len(given.runs)} runs")

    config = checkpoint.describe(given.runs[0]).config
    data = build.build_data({**config, "data": {**config["data"], "root": given.root or config["data"]["root"]}})
    items = data.items("test" if data.splits["test"] else "val")
    options = cli.compose("predict", ["ckpt=.", "source=.", "output=."])
    networks = [loading.predictor({**options, "ckpt": run}) for run in given.runs]
    found = []
    for index in given.images:
        sample = items.read(index)
        assert sample.label is not None, "a split that is tested has labels"
        predictions = {name: network(sample.image) for name, network in zip(names, networks, strict=True)}
        found.append((sample.image, sample.label, predictions))
    visualize.save(sheet(found, given.distance, given.width), given.output)
    print(given.output)


if __name__ == "__main__":
    main()

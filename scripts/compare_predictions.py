"""Several networks' predictions side by side: ``python scripts/compare_predictions.py RUN [RUN ...] --output a.png``.

One row per image of the test split (the validation split of data without one): image, label, and every network's
prediction under its classifier's name. The data come from the first run's configuration (``--root`` for another place).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from seglab import build, checkpoint, cli, loading, visualize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders, checkpoints or exported folders")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 50, 100], help="indices in the split")
    parser.add_argument("--root", help="data.root")
    parser.add_argument("--width", type=int, default=200, help="of a panel, in pixels")
    parser.add_argument("--output", type=Path, default=Path("strip.png"))
    given = parser.parse_args()

    config = checkpoint.describe(given.runs[0]).config
    data = build.build_data({**config, "data": {**config["data"], "root": given.root or config["data"]["root"]}})
    items = data.items("test" if data.splits["test"] else "val")
    options = cli.compose("predict", ["ckpt=.", "source=.", "output=."])
    networks = [loading.predictor({**options, "ckpt": run}) for run in given.runs]
    names = [type(network.model.classifier).__name__ for network in networks]
    rows = []
    for index in given.images:
        sample = items.read(index)
        predictions = {name: network(sample.image) for name, network in zip(names, networks, strict=True)}
        spec = data.spec
        rows.append(visualize.strip(sample.image, sample.label, predictions, spec.classes, spec.palette, given.width))
    visualize.save(visualize.stack(rows), given.output)
    print(given.output, np.shape(visualize.stack(rows)))


if __name__ == "__main__":
    main()

"""Measure how many training items one core makes at the ADE20K protocol, beside 'decode, resize all, crop'.

python scripts/bench_data.py                              # JPEGs that it writes to a temporary folder
python scripts/bench_data.py --root ROOT --split training # or a data set's own files
python scripts/bench_data.py --compare PHOTOS             # what decoding at a reduced size does to the pixels of JPEGs

Prints one line of JSON per pipeline. All make the same items in turns, in one process and one thread: speeds are the
medians over rounds, from CPU seconds and from seconds on the clock; ``ratio`` is the median over rounds of the CPU
seconds of the slow pipeline divided by the pipeline's own. Reading alone is what no augmentation can be faster than, as
long as files are decoded whole.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from seglab.data import datasets, io
from seglab.data.augment import Augment, PhotoMetricDistortion
from seglab.data.items import Items, TrainItems
from seglab.data.source import FileSource, Opened

PROTOCOL: dict[str, Any] = {"crop": (512, 512), "long_short": (2048, 512), "ratio": (0.5, 2.0), "cat_max_ratio": 0.75}
SLOW = "decode, resize all, crop"
SIZES = ["512x683:9", "683x512:3", "1500x2000:2"]
TWIN = Path(__file__).resolve().parents[1] / "tests" / "data" / "slow_twin.py"


def photo(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image [H, W, 3] uint8 with details of all sizes, as a photo has, and a label [H, W] uint8 of some classes."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.full((height, width, 3), 128, np.float32)
    for step in (256, 128, 64, 32, 16, 8, 4, 2):
        grid = (height // step + 2, width // step + 2)
        noise = rng.normal(0, 3.2 * step**0.45, (*grid, 1)) + rng.normal(0, 1.2 * step**0.45, (*grid, 3))
        image += cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    ids = rng.choice(np.arange(1, 151, dtype=np.uint8), int(rng.integers(8, 21)), replace=False)
    rows, columns = (rng.uniform(0, side, len(ids)) for side in size)
    bend = cv2.resize(rng.normal(0, 0.05 * height, (8, 8, 2)).astype(np.float32), (width, height))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    best, label = np.full(size, np.inf, np.float32), np.zeros(size, np.uint8)
    for k, row, column in zip(ids, rows, columns, strict=True):
        distance = (y + bend[..., 0] - row) ** 2 + (x + bend[..., 1] - column) ** 2
        label[distance < best] = k
        best = np.minimum(best, distance)
    return np.clip(image, 0, 255).astype(np.uint8), label


def write(root: Path, sizes: list[str]) -> None:
    """``HxW:COUNT`` images and labels each, in ADE20K's layout."""
    folders = {kind: root / "ADEChallengeData2016" / kind / "training" for kind in ("images", "annotations")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    wanted = [size for given in sizes for size in [given.split(":")[0]] * int(given.split(":")[1])]
    for index, size in enumerate(wanted):
        height, width = map(int, size.split("x"))
        image, label = photo((height, width), index)
        name = f"ADE_train_{index + 1:08d}"
        Image.fromarray(image).save(folders["images"] / f"{name}.jpg", quality=85)
        Image.fromarray(label).save(folders["annotations"] / f"{name}.png")


def pipelines(source: FileSource, split: str, seed: int) -> dict[str, Callable[[int, int], object]]:
    """What makes item ``index`` of ``epoch``, by name."""
    twin = _load(TWIN)
    slow = twin.SlowAugment(photometric=twin.SlowDistortion(), **PROTOCOL)
    items = Items(source, [split])

    def slowly(epoch: int, index: int) -> object:
        return slow(twin.read(source, split, index), (seed, epoch, index))

    def fast(scaled: bool) -> Callable[[int, int], object]:
        augment = Augment(photometric=PhotoMetricDistortion(), scaled_decoding=scaled, **PROTOCOL)
        made = TrainItems(items, augment, seed)
        return lambda epoch, index: made[epoch, index]

    return {
        SLOW: slowly,
        "seglab": fast(False),
        "seglab, scaled_decoding=true": fast(True),
        "reading alone": lambda _, index: items.read(index),
    }


def compare(folder: Path, factors: Sequence[float]) -> None:
    """Print by how many grey levels images differ that were decoded whole and at a reduced size, then resized alike."""
    paths = [str(path) for path in sorted(folder.rglob("*.jpg")) if io.read_header(str(path)).mode == "RGB"]
    for factor in factors:
        augment = Augment(crop=None, ratio=(factor, factor), flip=0, scaled_decoding=True)
        found, scales = [], set()
        for path in paths:
            header = io.read_header(path)
            stored = (header.height, header.width)
            opened = Opened(name=path, size=stored, read=partial(_read, path), scales=header.scales)
            geometry = augment.geometry(opened, (0, 0, 0))
            scale = augment.scale(opened, geometry.size)
            whole, reduced = (geometry.of_image(opened.read(s), stored, s).astype(int) for s in (1, scale))
            area = cv2.resize(opened.read(1), geometry.size[::-1], interpolation=cv2.INTER_AREA)
            off = np.abs(whole - reduced)
            levels = (
                off.mean(),
                off.max(),
                (off > 8).mean(),
                np.abs(whole - area).mean(),
                np.abs(reduced - area).mean(),
            )
            found.append(levels)
            scales.add(scale)
        means = np.mean(found, axis=0)
        result = {
            "factor": factor,
            "scales": sorted(scales),
            "images": len(found),
            "mean_difference": round(means[0], 2),
            "of_single_images": [round(pick([row[0] for row in found]), 2) for pick in (min, max)],
            "largest": int(max(row[1] for row in found)),
            "share_above_8": round(means[2], 3),
            "whole_to_area_average": round(means[3], 2),
            "reduced_to_area_average": round(means[4], 2),
        }
        print(json.dumps(result), flush=True)


def _read(path: str, scale: int) -> np.ndarray:
    return io.read_image(path, scale=scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", help="a data set's folder; without it, images are written to a temporary folder")
    parser.add_argument("--dataset", default="ADE20K", help="its class in seglab.data.datasets")
    parser.add_argument("--split", default="training")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="HxW:COUNT", help="of the images that are written")
    parser.add_argument("--images", type=int, default=64, help="at most so many of the split's first")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", metavar="FOLDER", help="of JPEGs: compare their pixels instead of measuring times")
    parser.add_argument("--factors", type=float, nargs="+", default=(0.5, 0.4, 0.25, 0.15), help="sizes to compare at")
    args = parser.parse_args()

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if args.compare:
        compare(Path(args.compare), args.factors)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.root is None:
            write(Path(folder), args.sizes)
        source = getattr(datasets, args.dataset)(args.root or folder)
        count = min(args.images, len(source.names(args.split)))
        made = pipelines(source, args.split, args.seed)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
        for epoch in range(-1, args.rounds):  # the first warms up
            for name, make in made.items():
                cpu, clock = time.process_time(), time.perf_counter()
                for index in range(count):
                    make(max(epoch, 0), index)
                if epoch >= 0:
                    seconds[name].append((time.process_time() - cpu, time.perf_counter() - clock))
    slow = [cpu for cpu, _ in seconds[SLOW]]
    for name, rounds in seconds.items():
        result = {
            "pipeline": name,
            "images_per_cpu_second": round(count / median(cpu for cpu, _ in rounds), 1),
            "images_per_second": round(count / median(clock for _, clock in rounds), 1),
            "ratio": round(median(other / cpu for other, (cpu, _) in zip(slow, rounds, strict=True)), 2),
            "data": args.root or args.sizes,
            "images": count,
            "rounds": len(rounds),
        }
        print(json.dumps(result), flush=True)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()

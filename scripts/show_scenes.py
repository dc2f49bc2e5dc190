"""Draw a contact sheet of scenes and measure how fast they are rendered.

python scripts/show_scenes.py --output scenes.png --count 6 --split train
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seglab.data.scenes import Frame, Scenes


def panels(frame: Frame, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Image, label, instance and depth side by side, [H, 4 W, 3] uint8."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    instances = np.random.default_rng(1).integers(60, 256, (4096, 3)).astype(np.uint8)
    instances[0] = 0
    near = np.where(np.isfinite(frame.depth), 1 / np.maximum(frame.depth, 0.5), 0) ** 0.5
    depth = (255 * near / max(float(near.max()), 1e-6)).astype(np.uint8)
    views = (frame.image, colours[frame.label], instances[frame.instance], np.repeat(depth[..., None], 3, 2))
    return np.concatenate(views, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", default="scenes.png")
    parser.add_argument("--split", default="train", choices=Scenes.splits)
    parser.add_argument("--count", type=int, default=8, help="scenes on the sheet")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--frames", type=int, default=1, help="frames of each scene, one row each")
    parser.add_argument("--step", type=float, default=0.2, help="seconds between frames")
    parser.add_argument("--size", type=int, nargs=2, default=(144, 192), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--variation", type=float, default=0.8)
    parser.add_argument("--images-only", action="store_true")
    parser.add_argument("--time", type=int, default=200, help="scenes to render for the measurement, 0 to skip it")
    args = parser.parse_args()

    lengths = {args.split: max(args.first + args.count, args.time)}
    scenes = Scenes(size=args.size, lengths=lengths, seed=args.seed, noise=args.noise, variation=args.variation)
    palette = np.array(scenes.spec.palette, np.uint8)
    cells = []
    for index in range(args.first, args.first + args.count):
        frames = [scenes.frame(args.split, index, step * args.step) for step in range(args.frames)]
        rows = [frame.image if args.images_only else panels(frame, palette) for frame in frames]
        cells.append(np.concatenate(rows))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % args.columns)
    lines = [np.concatenate(cells[i : i + args.columns], axis=1) for i in range(0, len(cells), args.columns)]
    Image.fromarray(np.concatenate(lines)).save(args.output)
    print(f"wrote {args.output}")

    if args.time:
        scenes.read(args.split, 0)
        start = time.process_time()
        counts = np.zeros(256, np.int64)
        for index in range(args.time):
            label = scenes.read(args.split, index).label
            assert label is not None
            counts += np.bincount(label.ravel(), minlength=256)
        seconds = time.process_time() - start
        height, width = scenes.size
        print(f"{args.time / seconds:.0f} images/s at {height}x{width} ({1000 * seconds / args.time:.2f} ms, CPU time)")
        share = counts / counts.sum()
        for name, part in [*zip(scenes.spec.classes, share, strict=False), ("void", share[255])]:
            print(f"  {name:12s} {100 * part:5.1f} % of pixels")


if __name__ == "__main__":
    main()

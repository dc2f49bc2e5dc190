"""Cost of scoring a prediction, beside PyTorch and torchmetrics: resize to the label, argmax, confusion matrix.

``python scripts/bench_evaluation.py`` prints one JSON line for each size and way: median CPU and wall seconds, taken in
turns in one process, peak memory in a process of its own, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab.metrics import ConfusionMatrix
from seglab.timing import peak_memory
from seglab.types import IGNORE, Batch, Evaluated

Work = Callable[[], object]
SIZES = {"1024x2048, 19 classes": (19, 1024, 2048), "512x2048, 150 classes": (150, 512, 2048)}
WAYS = ("torch", "seglab")


def work_of(way: str, classes: int, height: int, width: int, stride: int) -> tuple[Work, Callable[[], Tensor]]:
    """Scoring logits at a stride against a label, and what reads the confusion matrix [K, K] after it."""
    torch.manual_seed(0)
    scores = torch.randn(1, classes, height // stride, width // stride)
    label = torch.randint(classes, (1, height // 16, width // 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    label[:, : height // 20] = IGNORE
    if way == "seglab":
        own = ConfusionMatrix(classes)
        seen = Evaluated(batch=Batch(image=scores, names=("",), label=label), scores=scores)
        return lambda: own.update(seen), lambda: own.matrix
    from torchmetrics.classification import MulticlassConfusionMatrix

    theirs = MulticlassConfusionMatrix(classes, ignore_index=IGNORE)

    def plain() -> None:
        resized = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
        theirs.update(resized.argmax(1), label)

    return plain, theirs.compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=8, help="of the logits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        way, name = args.peak
        work, _ = work_of(way, *SIZES[name], args.stride)
        print(peak_memory(work, work_of(way, 3, 32, 64, args.stride)[0]))
        return
    with torch.inference_mode():
        for name, size in SIZES.items():
            works = {way: work_of(way, *size, args.stride)[0] for way in WAYS}
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for number in range(-1, args.rounds):
                for way, work in works.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    work()
                    if number >= 0:
                        times[way].append((time.process_time() - cpu, time.perf_counter() - wall))
            peak = {}
            for way in WAYS:
                own = [sys.executable, __file__, "--stride", str(args.stride), "--peak", way, name]
                peak[way] = float(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
            for way in WAYS:
                ratio = statistics.median(a[0] / b[0] for a, b in zip(times[way], times["torch"], strict=True))
                record = {
                    "way": way,
                    "size": name,
                    "cpu_s": round(statistics.median(cpu for cpu, _ in times[way]), 4),
                    "wall_s": round(statistics.median(wall for _, wall in times[way]), 4),
                    "peak_mib": round(peak[way], 1),
                    "cpu_ratio": round(ratio, 3),
                    "peak_ratio": round(peak[way] / peak["torch"], 3),
                    "threads": torch.get_num_threads(),
                }
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

"""Cost of IFA's query in two forms: the first layer split by levels, and as one matrix over the joined levels.

``python scripts/bench_ifa.py --map 128 128 --query 128 128`` prints one JSON line for each form: median wall seconds
and median CPU seconds of a forward pass in evaluation, of a training step (forward and backward), and the largest
difference between the forms' features. Levels are of strides 1, 2, 4 and 8 of the map. The forms run in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab.decoders.ifa import WIDTHS
from seglab.decoders.implicit import Implicit, Points, whole_grid


def joined(query: Implicit, levels: list[Tensor], points: Points) -> Tensor:
    """The feature by the whole matrix."""
    context = torch.cat([query.context(i, x, points) for i, x in enumerate(levels)], 1)
    return query.imnet.after_first(query.imnet.first(context))


def split(query: Implicit, levels: list[Tensor], points: Points) -> Tensor:
    """The feature level by level."""
    return query(levels, points)


FORMS: dict[str, Callable[[Implicit, list[Tensor], Points], Tensor]] = {"joined": joined, "split": split}


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=2, choices=WIDTHS)
    parser.add_argument("--map", type=int, nargs=2, default=[128, 128], help="height and width of the finest level")
    parser.add_argument("--query", type=int, nargs=2, default=[128, 128], help="height and width of the query")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)

    torch.manual_seed(0)
    query = Implicit(4, args.width, [int(factor * args.width) for factor in WIDTHS[args.depth]]).to(device)
    sizes = [[-(-side // 2**i) for side in args.map] for i in range(4)]
    levels = [torch.randn(args.batch, args.width, *size, device=device, requires_grad=True) for size in sizes]
    points = whole_grid((args.query[0], args.query[1]), device)

    def evaluate(form: str) -> Tensor:
        with torch.no_grad():
            return FORMS[form](query, levels, points)

    def train(form: str) -> None:
        FORMS[form](query, levels, points).square().mean().backward()

    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    query.eval()
    features = {form: evaluate(form) for form in FORMS}
    difference = float((features["joined"] - features["split"]).abs().max())
    for name, step in (("evaluation", evaluate), ("training", train)):
        query.train(name == "training")
        for form in FORMS:
            step(form)
        for _ in range(args.rounds):
            for form in FORMS:
                times.setdefault((form, name), []).append(timed(lambda: step(form), device))  # noqa: B023
    for form in FORMS:
        row: dict[str, object] = {"form": form, "map": args.map, "query": args.query, "difference": difference}
        for name in ("evaluation", "training"):
            wall, cpu = (statistics.median(values) for values in zip(*times[form, name], strict=True))
            row |= {f"{name}_wall_s": wall, f"{name}_cpu_s": cpu}
        print(json.dumps(row))


if __name__ == "__main__":
    main()

"""Cost of networks, side by side: ``python -m seglab.benchmark classifier=linear,ssa --size 512 512 --classes 150``.

How it measures: the variants take turns, round after round, so that a machine whose speed drifts slows all of them; a
round is one forward pass in evaluation mode, and one training step without optimiser (forward, all losses, backward),
on random images and labels; medians over the rounds are printed, and the median of the ratios to the first variant
within a round. A GPU is synchronised before each reading of the clock. FLOPs are those of every matrix product and
convolution of one evaluation pass over one image (a multiply-accumulate is two), also of products outside of layers,
which counters that hook modules do not see.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from typing import TYPE_CHECKING

from seglab import cli
from seglab.errors import UserError
from seglab.timing import build_configured, measure, random_batch, ratio

if TYPE_CHECKING:
    from seglab.tasks.base import Task


def expand(overrides: list[str]) -> dict[str, list[str]]:
    """``["a=1,2", "b=3"] -> {"a=1": ["a=1", "b=3"], "a=2": [...]}``: every combination under the choices that vary."""
    axes = [
        [f"{name}={value}" for value in values.split(",")] for name, _, values in (o.partition("=") for o in overrides)
    ]
    varied = [i for i, axis in enumerate(axes) if len(axis) > 1]
    return {" ".join(chosen[i] for i in varied) or "network": list(chosen) for chosen in product(*axes)}


def build(overrides: list[str], classes: int) -> Task:
    """The task of ``conf/train.yaml`` with the overrides, for that many classes and without data."""
    return build_configured(cli.compose("train", [*overrides, "run_dir=."]), classes)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for seglab.train; several values make variants")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    import torch
    from rich.console import Console
    from rich.table import Table

    device = torch.device(given.device)
    try:
        variants = expand(given.overrides or ["classifier=linear,cosine,cac,ssa"])
        tasks = {name: build(chosen, given.classes).to(device) for name, chosen in variants.items()}
    except UserError as error:
        cli.fail(str(error), error.exit_code)
    batch = random_batch(tuple(given.size), given.batch, given.classes, device)
    costs = measure(tasks, batch, given.rounds, given.warmup)
    base = next(iter(costs.values()))
    height, width = given.size
    shown = Table(
        title=f"batch {given.batch} of {height}x{width}, {given.classes} classes, {device}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}: medians of {given.rounds} rounds"
    )
    for heading in ("", "parameters, M", "GFLOPs an image", "forward, ms", "ratio", "training step, ms", "ratio"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, cost in costs.items():
        shown.add_row(
            name, f"{cost.parameters / 1e6:.2f}", f"{cost.gflops:.2f}",
            f"{1000 * statistics.median(cost.forward):.1f}", f"{ratio(cost.forward, base.forward):.2f}",
            f"{1000 * statistics.median(cost.step):.1f}", f"{ratio(cost.step, base.step):.2f}",
        )  # fmt: skip
    Console(width=max(Console().width, 110)).print(shown)


if __name__ == "__main__":
    main()

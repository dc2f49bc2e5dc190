"""Cost of networks, side by side: ``python -m seglab.benchmark classifier=linear,ssa --size 512 512 --classes 150``.

How it measures: the variants take turns, round after round, so that a machine whose speed drifts slows all of them. A
round is one forward pass over one image and one over the batch, in evaluation mode, and one training step (forward, all
losses, backward, optimiser) on random images and labels. Given are medians over the rounds, the 90th percentile of the
latency, and the medians of the ratios to the first variant within a round. A GPU is synchronised before each reading of
the clock. FLOPs are those of every matrix product and convolution of one evaluation pass over one image (a
multiply-accumulate is two), also of products outside of layers, which counters that hook modules do not see.

``--against torch`` puts a row in front: the same network with a 1x1 convolution, ``F.interpolate`` to the size of the
labels and ``F.cross_entropy``. ``--memory`` measures the peak of a training step, each in a process of its own.
``--json FILE`` and ``--image FILE`` keep the result.

``receptive_field=true`` measures no costs, but what the centre of the backbone's coarsest map depends on
(``receptive_field=logits``: the centre of the logits), with the initial weights, and with the pretrained ones of
configurations that ask for them: the mean absolute gradient with respect to the pixels of noise, its size, and the
squares that hold half and 95 % of it (:mod:`seglab.receptive_field` says how); ``--image FILE`` draws it::

    python -m seglab.benchmark receptive_field=true backbone=ffnet,resnet50,resnet50_d8 --image fields.png

``--aux`` compares what it costs to adapt one network to a video, frame by frame (:mod:`seglab.adaptation`)::

    python -m seglab.benchmark backbone=resnet50_d8 --aux 'backbone=resnet18' --size 360 480 --classes 11
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab import cli
from seglab.errors import ConfigError, UserError
from seglab.timing import Measurement, build_configured, measure, peak_memory, random_batch, ratio, step_parts

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from seglab.tasks.base import Task
    from seglab.types import Batch

PLAIN = "torch"
"""The variant of ``--against torch``."""


@dataclass(frozen=True)
class Variant:
    """A network to be measured."""

    name: str
    overrides: list[str]
    plain: bool = False
    """Whether its loss is PyTorch's own."""
    config: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", cli.compose("train", [*self.overrides, "run_dir=."]))

    def task(self, classes: int) -> Task:
        """Its task, for that many classes and without data."""
        if not self.plain:
            return build_configured(self.config, classes)
        from seglab.losses.base import Criterion
        from seglab.losses.plain import PlainCrossEntropy

        return build_configured(self.config, classes, Criterion({"main": PlainCrossEntropy()}))

    def optimizer(self, task: Task) -> torch.optim.Optimizer | None:
        """That of its configuration."""
        from seglab.build import instantiate

        node = self.config["optim"]
        made = instantiate(node, "optim")(task.model, 1000) if node is not None else {"optimizer": None}
        optimizer: torch.optim.Optimizer | None = made["optimizer"]
        return optimizer


def expand(overrides: list[str]) -> dict[str, list[str]]:
    """``["a=1,2", "b=3"] -> {"a=1": ["a=1", "b=3"], "a=2": [...]}``: every combination under the choices that vary."""
    axes = [
        [f"{name}={value}" for value in values.split(",")] for name, _, values in (o.partition("=") for o in overrides)
    ]
    varied = [i for i, axis in enumerate(axes) if len(axis) > 1]
    return {" ".join(chosen[i] for i in varied) or "network": list(chosen) for chosen in product(*axes)}


def variants(overrides: list[str], against: str | None = None) -> list[Variant]:
    """The networks that a command line asks for, the one to compare with first."""
    named = expand(overrides or ["classifier=linear,cosine,cac,ssa"])
    found = [Variant(name, chosen) for name, chosen in named.items()]
    if against == PLAIN:
        found.insert(0, Variant(PLAIN, [*next(iter(named.values())), "classifier=linear"], plain=True))
    return found


def peak(variant: Variant, given: argparse.Namespace) -> float | None:
    """MiB that a training step takes beyond network and images; of a process that did nothing else."""
    import torch

    from seglab.build import corner
    from seglab.timing import Clock

    device = torch.device(given.device)
    task = variant.task(given.classes).to(device)
    batch = random_batch(tuple(given.size), given.batch, given.classes, device)

    def step(of: Batch = batch) -> None:
        step_parts(task, of, Clock(device))

    if device.type == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    small = corner(task, batch)
    return peak_memory(step, lambda: step(small))


def peak_apart(name: str, arguments: list[str]) -> float | None:
    """:func:`peak` of the variant of that name of a command line, in a process of its own."""
    command = [sys.executable, "-m", "seglab.benchmark", *arguments, "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return float(last) if done.returncode == 0 and last != "None" else None


def records(
    costs: dict[str, Measurement], batch: int, memory: dict[str, float | None] | None = None
) -> list[dict[str, Any]]:
    """What is shown, a mapping for each variant; times in ms."""
    base, found = next(iter(costs.values())), []
    for name, cost in costs.items():
        peaks = {} if memory is None else {"peak_mib": memory[name]}
        found.append(
            {
                "variant": name,
                "parameters": cost.parameters,
                "gflops": cost.gflops,
                "latency_ms": 1000 * statistics.median(cost.single),
                "latency_p90_ms": 1000 * percentile(cost.single, 0.9),
                "latency_ratio": ratio(cost.single, base.single),
                "images_per_s": batch / statistics.median(cost.forward),
                **(training(cost, base) if cost.step else {}),
                **peaks,
            }
        )
    return found


def training(cost: Measurement, base: Measurement) -> dict[str, Any]:
    """What is shown of the training steps."""
    return {
        "step_ms": 1000 * statistics.median(cost.step),
        "step_ratio": ratio(cost.step, base.step),
        "parts_ms": {part: 1000 * statistics.median(times) for part, times in cost.parts.items()},
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least that share of all is not above."""
    return sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]


def tables(found: list[dict[str, Any]], title: str) -> list[Table]:
    """The costs, and the parts of the training step."""
    from rich.table import Table

    columns = {
        "parameters, M": lambda row: f"{row['parameters'] / 1e6:.2f}",
        "GFLOPs an image": lambda row: f"{row['gflops']:.2f}",
        "latency, ms": lambda row: f"{row['latency_ms']:.1f}",
        "p90": lambda row: f"{row['latency_p90_ms']:.1f}",
        "ratio": lambda row: f"{row['latency_ratio']:.2f}",
        "images/s": lambda row: f"{row['images_per_s']:.1f}",
    }
    if "step_ms" in found[0]:
        columns["training step, ms"] = lambda row: f"{row['step_ms']:.1f}"
        columns["its ratio"] = lambda row: f"{row['step_ratio']:.2f}"
    if "peak_mib" in found[0]:
        columns["peak, MiB"] = lambda row: "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    names = list(dict.fromkeys(part for row in found for part in row.get("parts_ms", {})))
    parts = {name: (lambda row, name=name: f"{row['parts_ms'].get(name, 0.0):.1f}") for name in names}
    made = []
    for heading, shown in ((title, columns), ("parts of the training step, ms", parts)):
        table = Table("", title=heading)
        for column in shown:
            table.add_column(column, justify="right")
        for row in found:
            table.add_row(row["variant"], *(show(row) for show in shown.values()))
        made += [table] if shown else []
    return made


def draw(found: list[dict[str, Any]], title: str, path: Path) -> None:
    """The parts of the training step as stacked bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(part for row in found for part in row["parts_ms"]))
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.5 * len(found)), layout="constrained")
    left = [0.0] * len(found)
    for name in names:
        widths = [row["parts_ms"].get(name, 0.0) for row in found]
        axis.barh([row["variant"] for row in found], widths, left=left, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("training step, ms")
    axis.set_title(title, fontsize=8)
    axis.legend(fontsize=8, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.35 - 0.1 / len(found)))
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("overrides", nargs="*", help="as for seglab.train; several values make variants")
    made.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    made.add_argument("--classes", type=int, default=150)
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--warmup", type=int, default=2)
    made.add_argument("--device", default="cpu")
    made.add_argument("--against", choices=[PLAIN], help="put PyTorch's own head and loss in front")
    made.add_argument("--no-training", action="store_true", help="leave the training steps out")
    made.add_argument("--aux", metavar="OVERRIDES", help="the auxiliary network: what a frame of a video costs")
    made.add_argument("--refine", default="", metavar="OVERRIDES", help="of predictor.refine, where there is --aux")
    made.add_argument("--memory", action="store_true", help="the peak of a training step, in processes of their own")
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument("--image", type=Path, metavar="FILE", help="a PNG of the training step's parts")
    made.add_argument("--peak", metavar="VARIANT", help=argparse.SUPPRESS)
    return made


def adapting(given: argparse.Namespace) -> None:
    """Measure and show what a frame of a video costs, with and without what adapts to it.

    Raises:
        ConfigError: several networks, or options that do not go together.
    """
    import torch
    from rich.console import Console

    from seglab import adaptation

    chosen = variants(given.overrides or ["classifier=linear"])
    if len(chosen) > 1:
        raise ConfigError(f"--aux with {len(chosen)} networks — expected one main network; leave one value of each key")
    auxiliary = Variant("aux", shlex.split(given.aux))
    main, aux = (each.task(given.classes).to(given.device).eval() for each in (*chosen, auxiliary))
    ways = adaptation.refinements(main, aux, shlex.split(given.refine))
    found = adaptation.records(adaptation.measure(main, ways, tuple(given.size), given.rounds, given.warmup))
    reduced = adaptation.reduction(found)
    height, width = given.size
    title = (
        f"frames of {height}x{width}, {given.classes} classes, {given.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}: medians of {given.rounds} rounds"
    )
    console = Console(width=max(Console().width, 130))
    console.print(adaptation.table(found, title))
    shown = {key.removeprefix("overhead_"): "-" if x is None else f"{x:.1f}" for key, x in reduced.items()}
    console.print("overhead of adapting main / of AuxAdapt: " + ", ".join(f"{key} {x}" for key, x in shown.items()))
    if given.json:
        command = shlex.join(["python", "-m", "seglab.benchmark", *sys.argv[1:]])
        kept = {"command": command, "setting": title, "variants": found, "overhead_reduction": reduced}
        given.json.write_text(json.dumps(kept, indent=2) + "\n")


def main() -> None:
    """Entry point."""
    given = parser().parse_args()

    import torch
    from rich.console import Console

    from seglab import receptive_field

    device = torch.device(given.device)
    try:
        if given.aux is not None:
            adapting(given)
            return
        overrides, of = receptive_field.asked(given.overrides)
        if of is not None:
            chosen = variants(overrides or ["backbone=ffnet,resnet50,resnet50_d8"])
            configs = {each.name: each.config for each in chosen}
            fields = receptive_field.of_networks(configs, of, tuple(given.size), given.classes, device, given.rounds)
            receptive_field.report(fields, given.json, given.image)
            return
        chosen = variants(overrides, given.against)
        if given.peak is not None:
            print(peak(next(each for each in chosen if each.name == given.peak), given))
            return
        tasks = {variant.name: variant.task(given.classes).to(device) for variant in chosen}
        optimizers = {variant.name: variant.optimizer(tasks[variant.name]) for variant in chosen}
    except UserError as error:
        cli.fail(str(error), error.exit_code)
    batch = random_batch(tuple(given.size), given.batch, given.classes, device)
    stepped = {name: optimizer for name, optimizer in optimizers.items() if optimizer is not None}
    costs = measure(tasks, batch, given.rounds, given.warmup, not given.no_training, stepped)
    memory = {each.name: peak_apart(each.name, sys.argv[1:]) for each in chosen} if given.memory else None
    found = records(costs, given.batch, memory)
    height, width = given.size
    title = (
        f"batch {given.batch} of {height}x{width}, {given.classes} classes, {device}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}: medians of {given.rounds} rounds"
    )
    console = Console(width=max(Console().width, 130))
    for table in tables(found, title):
        console.print(table)
    if given.json:
        command = shlex.join(["python", "-m", "seglab.benchmark", *sys.argv[1:]])
        given.json.write_text(json.dumps({"command": command, "setting": title, "variants": found}, indent=2) + "\n")
    if given.image and not given.no_training:
        draw(found, title, given.image)


if __name__ == "__main__":
    main()

"""Where the time of a training goes: a step from the data to the optimiser, and the validation of a batch.

``python scripts/bench_job.py`` measures README's first command, and with overrides another training, such as
``experiment=camvid_small classifier=ssa data.root=CAMVID``. It prints a JSON line for the step and one for the
validation: medians over rounds in ms, every part in this process, one after the other. In a training, data is made by
other processes meanwhile, and takes time only where these are slower than the rest, or need the same cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import build, cli
from seglab.tasks.base import Task
from seglab.timing import Clock, step_parts
from seglab.types import Batch, Evaluated

T = TypeVar("T")


class Parts:
    """Times of named parts, round after round."""

    def __init__(self) -> None:
        self.clock = Clock(torch.device("cpu"))
        self.times: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """One more time of a part."""
        self.times.setdefault(name, []).append(seconds)

    def take(self, name: str, work: Callable[[], T]) -> T:
        """The result of some work, whose time is added."""
        start = self.clock.now()
        found = work()
        self.add(name, self.clock.now() - start)
        return found

    def medians(self) -> dict[str, float]:
        """In ms, and their sum."""
        found = {name: round(1000 * statistics.median(times), 1) for name, times in self.times.items()}
        return {**found, "all": round(sum(found.values()), 1)}


def validate(task: Task, batch: Batch, parts: Parts) -> None:
    """Predict, score and find the losses of one batch, as :meth:`seglab.tasks.base.Task.evaluate` does."""
    with torch.inference_mode():
        seen: Evaluated = parts.take("network", lambda: task.score(batch, frozenset()))
        assert seen.output is not None
        output = seen.output
        for name, metric in task.named_metrics().items():
            parts.take(name, lambda metric=metric: metric.update(seen))  # type: ignore[misc]
        parts.take("losses", lambda: task.terms(output, batch, 0, task.evaluated))


def passes(loader: Iterable[T]) -> Iterator[T]:
    """One pass over a loader after another."""
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    config = cli.compose("train", [*(args.overrides or ["classifier=ssa"]), "data.num_workers=0", "run_dir=."])
    data = build.build_data(config)
    data.setup("fit")
    task = build.build_training(config, data.spec, probe=data.probe()).task
    optimizer = build.instantiate(config["optim"], "optim")(task.model, 1000)["optimizer"]
    train, val = iter(data.train_dataloader()), passes(data.val_dataloader())
    step, validation = Parts(), Parts()
    for number in range(-1, args.rounds):
        parts = Parts() if number < 0 else step  # the first round warms up
        batch = parts.take("data", lambda: next(train))
        for name, seconds in step_parts(task, batch, parts.clock, optimizer).items():
            parts.add(name, seconds)
        task.eval()
        parts = Parts() if number < 0 else validation
        for batch in parts.take("data", lambda: next(val)):
            validate(task, batch, parts)
    print(json.dumps({"of": f"a step of {data.batch_size} images", **step.medians()}))
    print(json.dumps({"of": "validation of a batch", **validation.medians()}))


if __name__ == "__main__":
    main()

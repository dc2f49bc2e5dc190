"""What networks cost, measured side by side: parameters, FLOPs, time of a pass and of a training step.

The networks take turns, round after round, so that a machine whose speed drifts slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from seglab.tasks.base import Task
    from seglab.types import Batch


class Measurement(NamedTuple):
    """What one variant takes; times in seconds."""

    parameters: int
    """All of them, ground-truth branches included."""
    gflops: float
    """Of one evaluation pass over one image."""
    forward: list[float]
    step: list[float]


def build_configured(config: dict[str, Any], classes: int) -> Task:
    """The task of a resolved configuration, such as a run's, for that many classes and without data."""
    from seglab.build import build_criterion, build_task
    from seglab.data.spec import DatasetSpec

    spec = DatasetSpec("random", tuple(str(k) for k in range(classes)), ((0, 0, 0),) * classes)
    return build_task(config, spec, build_criterion(config))


def random_batch(size: tuple[int, int], batch: int, classes: int, device: torch.device) -> Batch:
    """Noise, with blocks of labels of 16 pixels and a category for each image: what any task needs."""
    import torch

    from seglab.types import Batch

    coarse = torch.randint(classes, (batch, -(-size[0] // 16), -(-size[1] // 16)))
    label = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : size[0], : size[1]]
    return Batch(
        image=torch.randn(batch, 3, *size),
        names=("",) * batch,
        label=label,
        category=torch.randint(classes, (batch,)),
    ).map(lambda value: value.to(device))


def measure(
    tasks: Mapping[str, Task], batch: Batch, rounds: int, warmup: int, steps: bool = True
) -> dict[str, Measurement]:
    """The cost of every task's network, measured in turns; ``steps=False`` leaves the training steps out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from seglab.build import freeze_unreached, parameters

    device = batch.image.device

    def timed(work: Callable[[], object]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def forward(task: Task) -> None:
        with torch.no_grad():
            task.eval().model(batch.image)

    def step(task: Task) -> None:
        task.train().losses(batch, 0).total.backward()
        task.zero_grad(set_to_none=True)

    if steps:
        for task in tasks.values():
            freeze_unreached(task, batch)
    found = {}
    for name, task in tasks.items():
        counter = FlopCounterMode(display=False)
        with counter:  # its own hooks need gradients
            task.eval().model(batch.image[:1])
        found[name] = Measurement(parameters(task)["parameters"], counter.get_total_flops() / 1e9, [], [])
    for number in range(-warmup, rounds):
        for name, task in tasks.items():
            works = [(forward, found[name].forward)] + ([(step, found[name].step)] if steps else [])
            for work, times in works:
                seconds = timed(partial(work, task))
                if number >= 0:
                    times.append(seconds)
    return found


def peak_memory(work: Callable[[], object], warm_up: Callable[[], object] | None = None) -> float | None:
    """MiB that ``work`` takes at most beyond what is there before; of a process that has done little else.

    A process keeps memory that it had once: what ran before hides a part of the peak. None where the system does not
    say (it is read from Linux' ``/proc``).

    Args:
        warm_up: done before, for threads and libraries to be there.
    """
    if warm_up is not None:
        warm_up()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is there now
        before = high_water()
    except OSError:
        return None
    work()
    return high_water() - before


def high_water() -> float:
    """MiB that this process had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of one variant's time to another's in the same round."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))

"""What networks cost, measured side by side: parameters, FLOPs, time of a pass and of a training step.

The networks take turns, round after round, so that a machine whose speed drifts slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from seglab.module import SegmentationModule
    from seglab.types import Batch


class Cost(NamedTuple):
    """What one variant takes; times in seconds."""

    parameters: int
    """All of them, ground-truth branches included."""
    gflops: float
    """Of one evaluation pass over one image."""
    forward: list[float]
    step: list[float]


def build_configured(config: dict[str, Any], classes: int) -> SegmentationModule:
    """The module of a resolved configuration, such as a run's, for that many classes and without data."""
    from seglab.build import build_module
    from seglab.data.spec import DatasetSpec

    spec = DatasetSpec("random", tuple(str(k) for k in range(classes)), ((0, 0, 0),) * classes)
    return build_module(config, spec)


def random_batch(size: tuple[int, int], batch: int, classes: int, device: torch.device) -> Batch:
    """Noise with blocks of labels of 16 pixels."""
    import torch

    from seglab.types import Batch

    coarse = torch.randint(classes, (batch, -(-size[0] // 16), -(-size[1] // 16)))
    label = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : size[0], : size[1]]
    return Batch(image=torch.randn(batch, 3, *size).to(device), label=label.to(device), names=("",) * batch)


def measure(
    modules: Mapping[str, SegmentationModule], batch: Batch, rounds: int, warmup: int, steps: bool = True
) -> dict[str, Cost]:
    """The cost of every module, measured in turns; ``steps=False`` leaves the training steps out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from seglab.build import freeze_unreached
    from seglab.checkpoint import is_training_only

    device = batch.image.device

    def timed(work: Callable[[], object]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def forward(module: SegmentationModule) -> None:
        with torch.no_grad():
            module.eval()(batch.image)

    def step(module: SegmentationModule) -> None:
        module.train().criterion(module(batch.image, batch.label), batch).total.backward()
        module.zero_grad(set_to_none=True)

    if steps:
        for module in modules.values():
            freeze_unreached(module.model, module.criterion, batch)
    found = {}
    for name, module in modules.items():
        counter = FlopCounterMode(display=False)
        with counter:  # its own hooks need gradients
            module.eval()(batch.image[:1])
        parameters = sum(p.numel() for name, p in module.model.named_parameters() if not is_training_only(name))
        found[name] = Cost(parameters, counter.get_total_flops() / 1e9, [], [])
    for number in range(-warmup, rounds):
        for name, module in modules.items():
            works = [(forward, found[name].forward)] + ([(step, found[name].step)] if steps else [])
            for work, times in works:
                seconds = timed(partial(work, module))
                if number >= 0:
                    times.append(seconds)
    return found


def ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of one variant's time to another's in the same round."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))

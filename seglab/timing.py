"""What networks cost, measured side by side: parameters, FLOPs, time of a pass and of a training step.

The networks take turns, round after round, so that a machine whose speed drifts slows all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from seglab.losses.base import Criterion
    from seglab.tasks.base import Task
    from seglab.types import Batch


def flop_counter() -> Any:
    """PyTorch's counter of FLOPs, a context; its formula for the gradients of convolutions knows no groups.

    It counts the gradient of a depthwise convolution's weight as that of a dense one, channels times too much.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops}
    )


def convolution_backward_flops(
    gradient: Sequence[int],
    image: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **shapes: Any,
) -> int:
    """FLOPs of the wanted gradients, of shapes [N, C, ...]: each takes as many as the convolution itself."""
    batch, _, *places = image if transposed else gradient
    return 2 * batch * math.prod(places) * math.prod(weight) * (wanted[0] + wanted[1])


class Measurement(NamedTuple):
    """What one variant takes; times in seconds, one for each round."""

    parameters: int
    """All of them, ground-truth branches included."""
    gflops: float
    """Of one evaluation pass over one image."""
    single: list[float]
    """An evaluation pass over one image."""
    forward: list[float]
    """An evaluation pass over the batch."""
    step: list[float]
    """A training step."""
    parts: dict[str, list[float]]
    """What the step is made of: every part of the network, the losses, the backward pass, the optimiser."""


def build_configured(config: dict[str, Any], classes: int, criterion: Criterion | None = None) -> Task:
    """The task of a resolved configuration, such as a run's, for that many classes and without data.

    Args:
        criterion: instead of the configuration's losses.
    """
    from seglab.build import build_criterion, build_task
    from seglab.data.spec import DatasetSpec

    spec = DatasetSpec("random", tuple(str(k) for k in range(classes)), ((0, 0, 0),) * classes)
    return build_task(config, spec, criterion or build_criterion(config))


def random_batch(size: tuple[int, int], batch: int, classes: int, device: torch.device) -> Batch:
    """Noise, with blocks of labels of 16 pixels, a category and a near frame for each image: what any task needs."""
    import torch

    from seglab.types import Batch, Clip

    coarse = torch.randint(classes, (batch, -(-size[0] // 16), -(-size[1] // 16)))
    label = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : size[0], : size[1]]
    image, category = torch.randn(batch, 3, *size), torch.randint(classes, (batch,))
    near = torch.randn(batch, 3, *size)
    clip = Clip(
        frames=torch.randint(256, (batch, 2, 3, *size), dtype=torch.uint8),
        shown=torch.stack((image, near), 1),
        index=torch.zeros(batch, dtype=torch.int64),
        offset=torch.tensor((0, 1)).expand(batch, 2),
        flow=torch.zeros(batch, 2, 2, *size),
    )
    made = Batch(image=image, names=("",) * batch, label=label, category=category, clip=clip)
    return made.map(lambda value: value.to(device))


def measure(
    tasks: Mapping[str, Task],
    batch: Batch,
    rounds: int,
    warmup: int,
    steps: bool = True,
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
) -> dict[str, Measurement]:
    """The cost of every task's network, measured in turns.

    Args:
        steps: False leaves the training steps out.
        optimizers: of the tasks, stepped at the end of a training step; None: a step ends with the gradients.
    """
    import torch

    from seglab.build import freeze_unreached, parameters

    clock = Clock(batch.image.device)

    def forward(task: Task, image: torch.Tensor) -> float:
        with torch.no_grad():
            task.eval()
            return clock.time(lambda: task.model(image))

    if steps:
        for task in tasks.values():
            freeze_unreached(task, batch)
    found = {}
    for name, task in tasks.items():
        counter = flop_counter()
        with counter:  # its own hooks need gradients
            task.eval().model(batch.image[:1])
        found[name] = Measurement(parameters(task)["parameters"], counter.get_total_flops() / 1e9, [], [], [], {})
    for number in range(-warmup, rounds):
        for name, task in tasks.items():
            times = found[name]
            whole = forward(task, batch.image)
            single = forward(task, batch.image[:1]) if len(batch) > 1 else whole
            parts = step_parts(task, batch, clock, (optimizers or {}).get(name)) if steps else {}
            if number < 0:
                continue
            times.single.append(single)
            times.forward.append(whole)
            if steps:
                times.step.append(sum(parts.values()))
                for part, seconds in parts.items():
                    times.parts.setdefault(part, []).append(seconds)
    return found


class Clock:
    """Wall time of a device's work: a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Seconds, once everything before is done."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, work: Callable[[], object]) -> float:
        """Seconds that some work takes."""
        start = self.now()
        work()
        return self.now() - start


def step_parts(
    task: Task, batch: Batch, clock: Clock, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, float]:
    """Seconds of the parts of one training step, in their order.

    The forward pass is split at the calls of the network's parts; ``losses`` is what the rest of it takes.
    """
    starts: dict[str, float] = {}
    parts: dict[str, float] = {}
    hooks = []
    for name, child in task.model.named_children():

        def begin(*_: Any, name: str = name) -> None:
            starts[name] = clock.now()

        def end(*_: Any, name: str = name) -> None:
            parts[name] = parts.get(name, 0.0) + clock.now() - starts[name]

        hooks += [child.register_forward_pre_hook(begin), child.register_forward_hook(end)]
    task.train()
    start = clock.now()
    total = task.losses(batch, 0).total
    parts["losses"] = clock.now() - start - sum(parts.values())
    for hook in hooks:
        hook.remove()
    parts["backward"] = clock.time(total.backward)
    if optimizer is not None:
        parts["optimiser"] = clock.time(optimizer.step)
    task.zero_grad(set_to_none=True)
    return parts


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

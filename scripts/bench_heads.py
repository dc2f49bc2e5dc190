"""Cost of a pixel classifier with all its losses, beside the plain one of PyTorch: time and memory of a training step.

``python scripts/bench_heads.py --kinds plain,linear,cac,ssa --per-image 20,60`` prints one JSON line for each kind and
number of classes per image: median CPU seconds (``process_time``) and wall seconds of forward pass, losses and backward
pass, peak memory beyond what was there before, and the ratios to ``plain``: a 1x1 convolution, ``F.interpolate`` to the
size of the labels and ``F.cross_entropy``.

``--parts`` adds where the CPU time of a step goes, in ms by kind of operation, and what the machine needs at least: the
products' operations at the rate of a large matrix product, the exponentials at the rate of ``torch.exp`` in cache.

Times are taken in one process for each number of classes, in turns, round after round; the peak of a kind is that of a
process of its own, because an allocator keeps what it had (on a CPU it is read from Linux' ``/proc``).
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
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import build, cli
from seglab.losses.base import Criterion
from seglab.timing import flop_counter, peak_memory
from seglab.types import IGNORE, Batch

Step = Callable[[], object]


def labels(args: argparse.Namespace, per_image: int) -> Tensor:
    """[B, H, W] blocks of 16 pixels of ``per_image`` classes in each image, and one block in twenty void."""
    generator = torch.Generator().manual_seed(0)
    height, width = args.labels
    shape = (args.batch, -(-height // 16), -(-width // 16))
    chosen = torch.stack([torch.randperm(args.classes, generator=generator)[:per_image] for _ in range(args.batch)])
    index = torch.randint(per_image, shape, generator=generator)
    coarse = chosen.gather(1, index.flatten(1)).view(shape)
    coarse[torch.rand(shape, generator=generator) < 0.05] = IGNORE
    return coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous().to(args.device)


def step_of(kind: str, args: argparse.Namespace, per_image: int) -> Step:
    """A training step of that classifier: forward, losses, backward; from a feature that wants a gradient."""
    torch.manual_seed(0)
    feature = torch.randn(args.batch, args.channels, *args.map, device=args.device, requires_grad=True)
    label = labels(args, per_image)
    if kind == "plain":
        conv = nn.Conv2d(args.channels, args.classes, 1).to(args.device)

        def plain() -> None:
            resized = F.interpolate(conv(feature), label.shape[-2:], mode="bilinear", align_corners=False)
            F.cross_entropy(resized, label, ignore_index=IGNORE).backward()
            feature.grad = None
            conv.zero_grad()

        return plain
    config = cli.compose("train", [f"classifier={kind}", "run_dir=."])
    part = {**config["classifier"]}
    classifier = build.instantiate(part, "classifier", in_channels=args.channels, num_classes=args.classes)
    classifier = classifier.to(args.device).train()
    criterion: Criterion = build.build_criterion(config)
    batch = Batch(image=feature.detach(), label=label, names=("",) * args.batch)

    def step() -> None:
        criterion(classifier(feature, label), batch).total.backward()
        feature.grad = None
        classifier.zero_grad()

    return step


def timed(step: Step, device: str) -> tuple[float, float]:
    """CPU and wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def peak(kind: str, args: argparse.Namespace, per_image: int) -> float | None:
    """MiB of a step beyond what its inputs take, in this process."""
    step = step_of(kind, args, per_image)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    small = argparse.Namespace(**{**vars(args), "labels": (16, 16), "map": (2, 2)})
    return peak_memory(step, step_of(kind, small, 1))


PRODUCTS = ("mm", "bmm", "addmm", "convolution", "conv2d", "_slow_conv2d", "slow_conv2d", "mkldnn")
EXPONENTIALS = ("exp", "sigmoid", "softmax", "log_softmax")
PICKED = ("gather", "scatter", "index", "nonzero", "nll_loss", "upsample")


def family(name: str) -> str:
    """Which kind of operation an operator is."""
    short = name.removeprefix("aten::").rstrip("_")
    for kind, names in {"products": PRODUCTS, "exponentials": EXPONENTIALS, "picking": PICKED}.items():
        if any(short == each or short.strip("_").startswith(each) for each in names):
            return kind
    return "element-wise and sums"


def parts(step: Step) -> dict[str, float]:
    """ms of a step by kind of operation."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    found: dict[str, float] = {}
    for event in profile.key_averages():
        kind = family(event.key) if event.key.startswith("aten::") else "Python"
        found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total / 1000
    return {kind: round(ms, 1) for kind, ms in sorted(found.items())}


def rates() -> dict[str, float]:
    """Operations of a large product and exponentials in cache, both in 1e9/s of CPU time."""
    square, small = torch.randn(1024, 1024), torch.randn(2**16)
    works = {"product_gflops": (lambda: square @ square, 2 * 1024**3, 10), "gexp": (lambda: small.exp(), 2**16, 1000)}
    found = {}
    for name, (work, operations, times) in works.items():
        work()
        start = time.process_time()
        for _ in range(times):
            work()
        found[name] = round(operations * times / (time.process_time() - start) / 1e9, 2)
    return found


def operations(step: Step) -> float:
    """GFLOPs of the products of a step."""
    with flop_counter() as counter:
        step()
    return round(counter.get_total_flops() / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="plain,linear,cac,ssa")
    parser.add_argument("--per-image", default="20,60", help="classes that occur in an image")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--map", type=int, nargs=2, default=(64, 64), metavar=("h", "w"))
    parser.add_argument("--labels", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", action="store_true", help="where the time goes")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    if args.peak:
        print(peak(kinds[0], args, int(args.per_image)))
        return
    several = args.per_image.split(",")
    if len(several) > 1:  # what a process did before leaves its allocator slower, by a fifth
        for each in several:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--per-image", each], check=True)
        return
    per_image = int(several[0])
    steps = {kind: step_of(kind, args, per_image) for kind in dict.fromkeys(["plain", *kinds])}
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
    for number in range(-1, args.rounds):
        for kind, step in steps.items():
            found = timed(step, args.device)
            if number >= 0:
                times[kind].append(found)
    memory = {kind: peak_apart(kind, per_image) for kind in steps}
    for kind in kinds:
        ratios = [a[0] / b[0] for a, b in zip(times[kind], times["plain"], strict=True)]
        record = {
            "kind": kind,
            "per_image": per_image,
            "cpu_s": round(statistics.median(cpu for cpu, _ in times[kind]), 4),
            "wall_s": round(statistics.median(wall for _, wall in times[kind]), 4),
            "peak_mib": round(memory[kind], 1),
            "cpu_ratio": round(statistics.median(ratios), 3),
            "peak_ratio": round(memory[kind] / memory["plain"], 3),
            "threads": torch.get_num_threads(),
            "device": args.device,
        }
        if args.parts:
            record |= {"parts_ms": parts(steps[kind]), "gflops": operations(steps[kind]), **rates()}
        print(json.dumps(record), flush=True)


def peak_apart(kind: str, per_image: int) -> float:
    """:func:`peak` in a process of its own, with the options of this one."""
    own = [sys.executable, __file__, *sys.argv[1:], "--kinds", kind, "--per-image", str(per_image), "--peak"]
    return float(subprocess.run(own, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()

"""What makes a training step cheaper on a GPU, and the largest batch that fits: one JSON line for each case.

``python scripts/bench_gpu.py`` trains UPerNet with Swin-T and SSA-Seg on noise of 512x512 and 150 classes, and adds one
choice after another: bf16, channels_last, torch.compile, a fused optimiser. ``--largest`` looks for the largest batch:
with losses in one pass over bands (seglab's), with losses that hold the logits at the size of the labels
(``F.interpolate``, ``F.cross_entropy``, dice of whole masks), and both with gradient checkpointing. Arguments after
``--`` are overrides of the network's configuration.

Times are medians over steps with a synchronisation around each; the peak is that of the allocator. On a CPU
(``--device cpu``) the same cases run, to see that they do; their peaks are not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import build, cli
from seglab.losses import CrossEntropy, Dice, base
from seglab.losses.base import PixelTerm
from seglab.ops.class_means import one_hot
from seglab.timing import Clock, build_configured, random_batch
from seglab.types import IGNORE, Batch, Output

NETWORK = ["backbone=swin_tiny", "backbone.pretrained=false", "decoder=upernet", "classifier=ssa", "optim=adamw_swin"]
CHOICES = {
    "float32": ["task.channels_last=false"],
    "bf16": ["trainer.precision=bf16-mixed"],
    "channels_last": ["task.channels_last=true"],
    "compile": ["task.compile=true"],
    "fused optimiser": ["+optim.optimizer.fused=true"],
}
"""Each with those before it."""
CHECKPOINTING = {"gradient checkpointing": ["backbone.grad_checkpointing=true"]}


def at_label_size(terms: Sequence[PixelTerm], output: Output, batch: Batch) -> list[Tensor]:
    """The losses of :func:`seglab.losses.base.together`, with every map at the size of the labels held for autograd."""
    logits, label = terms[0].read(output, terms[0].branch).float(), terms[0].labels(batch)
    size = (label.shape[-2], label.shape[-1])
    y = F.interpolate(logits, size, mode="bilinear", align_corners=terms[0].align_corners)
    found = []
    for term in terms:
        if isinstance(term, CrossEntropy):
            pixels = (label != IGNORE).sum() if term.average == "valid" else label.numel()
            found.append(F.cross_entropy(y, label, ignore_index=IGNORE, reduction="sum") / pixels)
        elif isinstance(term, Dice):
            truth, p = one_hot(label, y.shape[1], y.dtype), y.sigmoid().flatten(2)
            dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
            present = truth.amax(-1) > 0
            found.append((dice * present).sum() / present.sum().clamp(min=1))
        else:
            raise SystemExit(f"no form of {type(term).__name__} at the size of the labels to compare with")
    return found


@contextlib.contextmanager
def losses(at_full_size: bool) -> Iterator[None]:
    """Train with losses at the size of the labels, or with seglab's."""
    own = base.together
    base.together = at_label_size if at_full_size else own
    try:
        yield
    finally:
        base.together = own


class Training:
    """Steps of a configured network on noise."""

    def __init__(self, overrides: Sequence[str], args: argparse.Namespace, batch: int) -> None:
        config = cli.compose("train", [*NETWORK, *overrides, *args.overrides, "run_dir=."])
        device = torch.device(args.device)
        self.clock, self.device = Clock(device), device
        self.task = build_configured(config, args.classes).to(device).train()
        self.batch = random_batch(tuple(args.size), batch, args.classes, device)
        build.freeze_unreached(self.task, self.batch)
        self.optimizer = build.instantiate(config["optim"], "optim")(self.task.model, 1000)["optimizer"]
        low = config["trainer"]["precision"] == "bf16-mixed"
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=low)

    def step(self) -> None:
        """Forward pass, losses, backward pass, optimiser."""
        with self.autocast:
            total = self.task.losses(self.batch, 0).total
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def measured(self, steps: int) -> dict[str, Any]:
        """Medians of the time, and the peak of the memory."""
        for _ in range(2):  # compiles, and makes the optimiser's state
            self.step()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = [self.clock.time(self.step) for _ in range(steps)]
        seconds = statistics.median(times)
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device.type == "cuda" else None
        images = round(len(self.batch) / seconds, 1)
        return {"step_ms": round(1000 * seconds, 1), "images_per_s": images, "peak_gib": peak}


def fits(overrides: Sequence[str], args: argparse.Namespace, batch: int, at_full_size: bool) -> bool:
    """Whether a step of that many images fits into the memory."""
    try:
        with losses(at_full_size):
            training = Training(overrides, args, batch)
            training.step()
            training.step()
    except torch.OutOfMemoryError:
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def largest(overrides: Sequence[str], args: argparse.Namespace, at_full_size: bool) -> int:
    """The largest batch of at most ``--most`` images that fits."""
    good, bad = 0, 2  # batch normalisation of pooled maps needs two images
    while bad <= args.most and fits(overrides, args, bad, at_full_size):
        good, bad = bad, 2 * bad
    bad = min(bad, args.most + 1)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(overrides, args, middle, at_full_size) else (good, middle)
    return good


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512])
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--choices", default=",".join(CHOICES), help="some of them, by name")
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--most", type=int, default=1024, help="images")
    parser.add_argument("overrides", nargs="*", help="the network, after --")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device — expected one, or --device cpu to see that the cases run")
    chosen: list[str] = []
    for name in args.choices.split(","):
        chosen += CHOICES[name]
        line = Training(chosen, args, args.batch).measured(args.steps)
        print(json.dumps({"case": name, "batch": args.batch, **line}), flush=True)
    for name, extra in CHECKPOINTING.items():
        line = Training([*chosen, *extra], args, args.batch).measured(args.steps)
        print(json.dumps({"case": name, "batch": args.batch, **line}), flush=True)
    if args.largest:
        for name, extra in {"": [], **CHECKPOINTING}.items():
            for at_full_size in (False, True):
                kind = "at the size of the labels" if at_full_size else "one pass over bands"
                found = largest([*chosen, *extra], args, at_full_size)
                print(json.dumps({"losses": kind, "with": name or None, "largest_batch": found}), flush=True)


if __name__ == "__main__":
    main()

"""Training steps on several processes of this machine, beside what a model on paper says they take.

``python scripts/bench_scaling.py --processes 1,2 --strategies ddp,fsdp --sizes 96x128,192x256 --classes 12,150`` prints
one JSON line for each case: median seconds of a step (forward pass, losses, backward pass with the exchange of
gradients), images/s of all processes, MiB that parameters, gradients and the optimiser's state take in each, and the
model's ``predicted_s``::

    step = 3 x B x FLOPs(H, W, K) / rate + messages x (n - 1) / n x bytes / bandwidth

FLOPs of a forward pass over one image are counted; ``rate`` is taken from the first case on one process, ``bandwidth``
from an all-reduce of as many bytes among as many processes, alone. ``messages`` is 2 for DDP (reduce-scatter and
all-gather of the gradients) and 3 for FSDP (parameters are gathered twice, gradients scattered once). The model knows
nothing of exchange that hides behind the backward pass, and is an upper bound there.

Every process computes with one thread, so that one process leaves the other cores idle: the ratio of two processes to
one is that of one device to two. Arguments after ``--`` are overrides of the network's configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import cli
from seglab.build import freeze_unreached
from seglab.sharding import PARTS, units
from seglab.timing import build_configured, random_batch

MESSAGES = {"ddp": 2, "fsdp": 3}
"""Passes of all parameters' bytes through a process's link, in units of (n - 1) / n."""


class Losses(nn.Module):
    """A task whose ``forward`` is the total loss, as DDP wants it."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        total: Tensor = self.task.losses(batch, 0).total
        return total


def bytes_of(tensors: Iterator[Tensor]) -> int:
    """What a process holds of them."""
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)


def steps(rank: int, case: dict[str, Any], folder: str) -> None:
    """Take a case's steps in one of its processes; the first writes what was measured."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    world = case["processes"]
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    torch.manual_seed(0)
    config = cli.compose("train", [*case["overrides"], "run_dir=."])
    task = build_configured(config, case["classes"]).train()
    batch = random_batch(case["size"], case["batch"], case["classes"], torch.device("cpu"))
    freeze_unreached(task, batch)
    size = bytes_of(p for p in task.parameters() if p.requires_grad)
    network: nn.Module = Losses(task)
    if case["strategy"] == "fsdp":
        mesh = init_device_mesh("cpu", (world,))
        task.model.to(memory_format=torch.contiguous_format)
        for name, part in task.model.named_children():
            if name in PARTS:
                units(part, mesh, case["unit"])
        fully_shard(task.model, mesh=mesh)
    elif world > 1:
        network = DistributedDataParallel(network)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    times = []
    for _ in range(case["steps"] + 2):
        dist.barrier()
        start = time.perf_counter()
        network(batch).backward()
        dist.barrier()
        times.append(time.perf_counter() - start)
        optimizer.step()
        held = bytes_of(iter(trained)) + bytes_of(p.grad for p in trained if p.grad is not None)
        optimizer.zero_grad()
    held += bytes_of(v for state in optimizer.state.values() for v in state.values())
    exchange = []
    for _ in range(5):
        flat = torch.zeros(size // 4)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(flat)
        exchange.append(time.perf_counter() - start)
    if rank == 0:
        found = {"step_s": statistics.median(times[2:]), "state_mib": held / 2**20, "parameter_mib": size / 2**20}
        found["all_reduce_s"] = statistics.median(exchange)
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def flops(case: dict[str, Any]) -> float:
    """Of a forward pass over one image, with what is computed of the ground truth."""
    from torch.utils.flop_counter import FlopCounterMode

    task = build_configured(cli.compose("train", [*case["overrides"], "run_dir=."]), case["classes"]).train()
    batch = random_batch(case["size"], 2, case["classes"], torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:  # its own hooks need gradients
        task.output(batch)
    return counter.get_total_flops() / 2


def predicted(case: dict[str, Any], found: dict[str, float], rate: float) -> float:
    """Seconds of a step, by the model."""
    n = case["processes"]
    compute = 3 * case["batch"] * case["flops"] / rate
    if n == 1:
        return compute
    # An all-reduce alone is two messages.
    return compute + found["all_reduce_s"] * MESSAGES[case["strategy"]] / 2


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is asked for; strategies make a difference from two processes on."""
    made = []
    for classes, size, n in product(args.classes, args.sizes, args.processes):
        for strategy in args.strategies if n > 1 else ["ddp"]:
            shape = {"classes": classes, "size": size, "processes": n, "strategy": strategy}
            made.append({**shape, "batch": args.batch, "steps": args.steps, "unit": args.unit})
    return made


def main() -> None:
    ints = lambda text: [int(each) for each in text.split(",")]  # noqa: E731
    sizes = lambda text: [tuple(map(int, each.split("x"))) for each in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=ints, default=[1, 2])
    parser.add_argument("--strategies", type=lambda text: text.split(","), default=["ddp", "fsdp"])
    parser.add_argument("--sizes", type=sizes, default=[(96, 128), (192, 256)], help="HxW,HxW")
    parser.add_argument("--classes", type=ints, default=[12, 150])
    parser.add_argument("--batch", type=int, default=4, help="images of each process")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--unit", type=int, default=1_000_000, help="parameters of a unit of FSDP")
    parser.add_argument("overrides", nargs="*", help="the network, after --")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rate = None
    for case in cases(args):
        case["overrides"] = args.overrides
        case["flops"] = flops(case)
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(steps, (case, folder), nprocs=case["processes"])
            found = json.loads(Path(folder, "found.json").read_text())
        if rate is None:
            rate = 3 * case["batch"] * case["flops"] / found["step_s"]
        line = {key: case[key] for key in ("processes", "strategy", "size", "classes")}
        line["gflops_image"] = round(case["flops"] / 1e9, 2)
        line["step_s"] = round(found["step_s"], 3)
        line["predicted_s"] = round(predicted(case, found, rate), 3)
        line["images_per_s"] = round(case["processes"] * case["batch"] / found["step_s"], 2)
        line["all_reduce_s"] = round(found["all_reduce_s"], 3)
        line["parameter_mib"] = round(found["parameter_mib"], 1)
        line["state_mib"] = round(found["state_mib"], 1)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""Training steps on several processes of this machine, beside what a model on paper says they take.

``python scripts/bench_scaling.py --processes 1,2 --strategies ddp,fsdp --sizes 96x128,192x256 --classes 12,150`` prints
one JSON line for each case: median seconds of a step (forward pass, losses, backward pass with the exchange of
gradients), images/s of all processes, MiB that parameters, gradients and the optimiser's state take in each, and the
model's ``predicted_s``::

    step = overhead + 3 x B x FLOPs(H, W, K) / rate + exchange(n)

FLOPs of a forward pass over one image are counted. ``overhead`` and ``rate`` are taken from one process at the first
two sizes (``calibrates``). ``exchange`` is measured alone, among as many processes and with as many bytes as the
network has: an all-reduce of the gradients for DDP; two all-gathers of the parameters and a reduce-scatter of the
gradients for FSDP. The model knows nothing of exchange that hides behind the backward pass.

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
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import cli
from seglab.build import freeze_unreached
from seglab.sharding import split
from seglab.timing import build_configured, flop_counter, random_batch


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
        split(task.model, init_device_mesh("cpu", (world,)), case["unit"])
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
    flat = torch.zeros(size // 4 // world * world)
    mine = flat.chunk(world)[rank].clone()
    messages = {
        "all_reduce": lambda: dist.all_reduce(flat),
        "all_gather": lambda: dist.all_gather_into_tensor(flat, mine),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(mine, flat),
    }
    alone = {name: timed(message) for name, message in messages.items()}
    if rank == 0:
        found = {"step_s": statistics.median(times[2:]), "state_mib": held / 2**20, "parameter_mib": size / 2**20}
        exchange = {"ddp": alone["all_reduce"], "fsdp": 2 * alone["all_gather"] + alone["reduce_scatter"]}
        found["exchange_s"] = exchange[case["strategy"]] if world > 1 else 0.0
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def flops(case: dict[str, Any]) -> float:
    """Of a forward pass over one image, with what is computed of the ground truth."""
    task = build_configured(cli.compose("train", [*case["overrides"], "run_dir=."]), case["classes"]).train()
    batch = random_batch(case["size"], 2, case["classes"], torch.device("cpu"))
    with flop_counter() as counter:  # its own hooks need gradients
        task.output(batch)
    return counter.get_total_flops() / 2


def timed(message: Callable[[], object]) -> float:
    """Median seconds of something that all processes do together."""
    times = []
    for _ in range(7):
        dist.barrier()
        start = time.perf_counter()
        message()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


class Model(NamedTuple):
    """Of the time that a step takes; see the file's beginning."""

    overhead: float
    rate: float

    @classmethod
    def of(cls, first: tuple[float, float], second: tuple[float, float]) -> Model:
        """From (operations, seconds) of a step at two sizes."""
        rate = (second[0] - first[0]) / (second[1] - first[1])
        return cls(first[1] - first[0] / rate, rate)

    def seconds(self, operations: float, exchange: float) -> float:
        return self.overhead + operations / self.rate + exchange


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is asked for, one process first; strategies make a difference from two processes on."""
    made = []
    for n, classes, size in product(sorted({1, *args.processes}), args.classes, args.sizes):
        for strategy in args.strategies if n > 1 else ["ddp"]:
            shape = {"classes": classes, "size": size, "processes": n, "strategy": strategy}
            made.append({**shape, "batch": args.batch, "steps": args.steps, "unit": args.unit})
    return made


def measured(case: dict[str, Any]) -> dict[str, float]:
    """What a case's processes found."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(steps, (case, folder), nprocs=case["processes"])
        found: dict[str, float] = json.loads(Path(folder, "found.json").read_text())
    return found


def line(case: dict[str, Any], found: dict[str, float], predicted: float | None) -> dict[str, Any]:
    """A case as it is printed; without a prediction it is one of those that the model is made of."""
    shown = {key: case[key] for key in ("processes", "strategy", "size", "classes")}
    shown["gflops_image"] = round(case["flops"] / 1e9, 2)
    shown["step_s"] = round(found["step_s"], 3)
    shown |= {"calibrates": True} if predicted is None else {"predicted_s": round(predicted, 3)}
    shown["exchange_s"] = round(found["exchange_s"], 3)
    shown["images_per_s"] = round(case["processes"] * case["batch"] / found["step_s"], 2)
    return shown | {key: round(found[key], 1) for key in ("parameter_mib", "state_mib")}


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
    if len(args.sizes) < 2:
        parser.error("--sizes needs two sizes, from which the model is made")
    seen: list[tuple[float, float]] = []
    for case in cases(args):
        case["overrides"] = args.overrides
        case["flops"] = flops(case)
        operations = 3 * case["batch"] * case["flops"]
        found = measured(case)
        if len(seen) < 2:
            seen.append((operations, found["step_s"]))
            predicted = None
        else:
            predicted = Model.of(*seen).seconds(operations, found["exchange_s"])
        print(json.dumps(line(case, found, predicted)), flush=True)


if __name__ == "__main__":
    main()

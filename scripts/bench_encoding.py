"""The encoding layer in two matrix products beside its definition: CPU time and memory of forward and backward pass.

``python scripts/bench_encoding.py --channels 512 --codewords 32 --map 60 60`` prints one JSON line for each form: the
median of the seconds over the rounds, which are taken in turns. ``--memory`` adds the peak beyond what was there
before, in MiB, of a process of its own, because an allocator keeps what it had (read from Linux' ``/proc``, null
elsewhere).
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
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab.ops.encoding import encode
from seglab.timing import peak_memory

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def residuals(x: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    """The definition: residuals [B, N, K, C] of all pairs."""
    pairs = x.flatten(2).transpose(1, 2)[:, :, None] - codewords
    assignment = (smoothing * pairs.square().sum(-1)).softmax(-1)
    return (assignment[..., None] * pairs).sum(1)


FORMS: dict[str, Form] = {"products": encode, "residuals": residuals}


def step(form: Form, args: argparse.Namespace) -> Callable[[], object]:
    """A forward and a backward pass on data that are always the same."""
    torch.manual_seed(0)
    x = torch.rand(args.batch, args.channels, *args.map, requires_grad=True)
    bound = (args.channels * args.codewords) ** -0.5
    codewords = torch.empty(args.codewords, args.channels).uniform_(-bound, bound).requires_grad_()
    smoothing = torch.empty(args.codewords).uniform_(-1, 0).requires_grad_()
    return lambda: torch.autograd.grad(form(x, codewords, smoothing).sum(), (x, codewords, smoothing))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--codewords", type=int, default=32)
    parser.add_argument("--map", type=int, nargs=2, default=(60, 60), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", action="store_true", help="peak memory of each form, too")
    parser.add_argument("--peak", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        few = argparse.Namespace(**{**vars(args), "map": (2, 2)})
        print(json.dumps(peak_memory(step(FORMS[args.peak], args), warm_up=step(FORMS[args.peak], few))))
        return
    steps = {name: step(form, args) for name, form in FORMS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, args.rounds):
        for name, work in steps.items():
            start = time.process_time()
            work()
            if number >= 0:
                times[name].append(time.process_time() - start)
    for name, found in times.items():
        line: dict[str, object] = {"form": name, "seconds": statistics.median(found)}
        if args.memory:
            command = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
            line["peak_mib"] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        print(json.dumps(line))


if __name__ == "__main__":
    main()

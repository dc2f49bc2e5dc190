"""Training steps a second beside other processes, by how OpenMP's threads wait for each other.

``python scripts/bench_busy.py --busy 4`` prints one JSON line for each setting, on the machine as it is and then beside
that many processes that compute all the time. A step is forward pass, losses and backward pass of 4 images of 96x128 in
the default network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, dict[str, str]] = {
    "waiting in a loop (OpenMP's default)": {"GOMP_SPINCOUNT": "300000"},
    "seglab's": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def steps(seconds: float) -> dict[str, float]:
    """Training steps done in that time, in this process."""
    sys.path.insert(0, str(ROOT))
    import torch

    from seglab import cli
    from seglab.timing import build_configured, random_batch

    task = build_configured(cli.compose("train", ["run_dir=."]), 11).train()
    batch = random_batch((96, 128), 4, 11, torch.device("cpu"))

    def step() -> None:
        task.losses(batch, 0).total.backward()
        task.zero_grad()

    step()
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return {
        "steps_per_s": round(count / (time.perf_counter() - start), 3),
        "cpu_s_per_step": round((time.process_time() - cpu) / count, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(steps(args.seconds)))
        return
    for busy in (0, args.busy):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for name, own in SETTINGS.items():
                environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), **own}
                command = [sys.executable, __file__, "--one", "--seconds", str(args.seconds)]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.strip().splitlines()[-1])
                print(json.dumps({"busy": busy, "setting": name, **found}), flush=True)
        finally:
            for other in others:
                other.kill()


if __name__ == "__main__":
    main()

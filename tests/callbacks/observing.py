"""What tests of callbacks for insight share: an evaluation as Lightning would do it, and a run with all it leaves."""

import random

import numpy as np
import torch

from seglab import cli
from seglab.train import fit
from seglab.types import Batch, Results


def batch(index):
    generator = torch.Generator().manual_seed(index)
    label = torch.randint(12, (2, 6, 8), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[:, :5] = 255
    return Batch(image=torch.randn(2, 3, 48, 64, generator=generator), label=label, names=("a", "b"))


def evaluate(module, callback=None):
    """Two batches, as Lightning would do it; gives the number of passes of the network."""
    task, calls = module.task, []
    forward = task.model.forward
    task.model.forward = lambda *args, **named: calls.append(1) or forward(*args, **named)
    task.reset()
    module.results = Results()
    if callback:
        callback.begin(None, module)
    observed = callback.observed(task) if callback else frozenset()
    with torch.no_grad():
        for index in (1, 2):
            seen = task.evaluate(batch(index), 0, observed)
            if callback:
                callback.observe(seen)
    task.model.forward = forward
    return len(calls)


PROTOCOLS = {
    "whole": [],
    "views": ["evaluation.flip=true", "evaluation.ratios=[0.75,1.0]"],
    "windows": ["evaluation.mode=slide", "evaluation.window=[32,32]", "evaluation.stride=[16,20]"],
    "padded": ["evaluation.divisor=36", "evaluation.divisor_mode=pad"],
}


def trained(folder, overrides, ema=False):
    """One run; gives what it left of the weights and of the random numbers."""
    config = cli.compose("train", [*overrides, f"run_dir={folder}"])
    if ema:
        config["callbacks"]["ema"] = {"_target_": "seglab.callbacks.ema.EMA", "decay": 0.5}
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    fit(config, folder)
    states = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    return config, torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"], states

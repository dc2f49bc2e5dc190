"""A checkpoint of an untrained network and some photographs, as tests of prediction need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seglab import checkpoint, cli, predict
from seglab.data.spec import DatasetSpec
from tests.conftest import network as small

NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]
SPEC = DatasetSpec("toy", ("road", "sky", "tree"), ((128, 64, 128), (70, 130, 180), (10, 120, 10)))


def save(config: dict, path: Path, spec: DatasetSpec = SPEC, step: int = 7) -> Path:
    """A checkpoint of an untrained network; no data set is at hand."""
    module = torch.nn.ModuleDict({"model": small(config, spec.num_classes)})
    module = torch.nn.ModuleDict({"task": module})
    content = {"state_dict": module.state_dict(), "global_step": step}
    checkpoint.embed(content, config, spec, ["heads"])
    torch.save(content, path)
    return path


def network(path: Path, *overrides: str, **about) -> Path:
    """A checkpoint of the smallest network."""
    return save(cli.compose("train", ["data=folder", "run_dir=.", *NET, *overrides]), path, **about)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (30, 41), mode: str = "RGB") -> Path:
    """Noise [height, width] in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def runner(ckpt: Path, source: Path, output: Path) -> Callable[..., Path]:
    """``run(*overrides) -> output``: the command, in this process."""

    def run(*overrides: str) -> Path:
        common = [f"ckpt={ckpt}", f"source={source}", f"output={output}", "device=cpu"]
        predict.predict_images(cli.compose("predict", [*common, *overrides]))
        return output

    return run


def files(folder: Path) -> list[str]:
    """Everything below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

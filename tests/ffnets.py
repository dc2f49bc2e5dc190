"""FFNets by their published names, without storage: what they are made of and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.backbones.ffnet import FFNet, variant
from seglab.classifiers import Linear
from seglab.decoders import ffnet as decoders
from seglab.interop import ffnet as interop


@contextmanager
def without_values() -> Iterator[None]:
    """Build on the meta device; drawing initial values there takes longer than all the rest."""
    names = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "constant_")
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        for name in names:
            stack.enter_context(patch.object(nn.init, name, lambda tensor, *args, **kwargs: tensor))
        yield


@contextmanager
def sizes_only() -> Iterator[None]:
    """Run on the meta device without what changes values alone."""

    def resized(x: Tensor, size: Sequence[int], **kwargs: object) -> Tensor:
        return x.new_empty(*x.shape[:2], *size)

    with (
        patch.object(F, "relu", lambda x, inplace=False: x),
        patch.object(F, "interpolate", resized),
        patch.object(nn.BatchNorm2d, "forward", lambda self, x: x),
    ):
        yield


@lru_cache
def encoder(name: str) -> FFNet:
    """Of an encoder's own name, which many networks share."""
    with without_values():
        return FFNet(name)


def encoder_of(name: str) -> str:
    """The own name of a network's encoder: ``ffnet78S_dBBB_mobile`` is on ``ffnet78S_d``."""
    kind = variant(name)
    return f"ffnet{kind.encoder}{'_d' * kind.downsampled}{'_pre_down' * kind.pre_down}"


@lru_cache
def decoder(kind: type, channels: tuple, strides: tuple, num_classes: int, **chosen: str) -> nn.Module:
    with without_values():
        return kind(channels, strides, num_classes, **chosen)


def assembled(name: str, num_classes: int) -> dict[str, nn.Module]:
    """The parts that the overrides of a published name choose, without storage."""
    words = dict(each.split("=") for each in interop.overrides(name))
    backbone = encoder(encoder_of(name))
    kind = {"ffnet": decoders.FFNet, "ffnet_category": decoders.FFNetCategory}[words["decoder"]]
    chosen = {key.partition(".")[2]: value for key, value in words.items() if key.startswith("decoder.")}
    made = decoder(kind, backbone.channels, backbone.strides, num_classes, **chosen)
    kernel, dropout = int(words.get("classifier.kernel", 1)), float(words["classifier.dropout"])
    with without_values():
        classifier = Linear(made.out_channels, num_classes, dropout, kernel=kernel)
    return {"backbone": backbone, "decoder": made, "classifier": classifier}


@lru_cache
def encoded(name: str, size: tuple[int, int]) -> tuple[float, tuple[Tensor, ...]]:
    """Multiply-adds of an encoder, and its maps."""
    return macs(encoder(name), torch.empty(1, 3, *size, device="meta"))


def macs(module: nn.Module, *inputs) -> tuple[float, list]:
    """Multiply-adds of the convolutions of a module on the meta device, and its result."""
    counted = []

    def count(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad(), sizes_only():
        result = module(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counted), result


def cost(name: str, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters of a network of 19 classes, and its multiply-adds for an image."""
    _, decoder, classifier = parts = list(assembled(name, 19).values())
    of_encoder, maps = encoded(encoder_of(name), size)
    of_decoder, decoded = macs(decoder, maps)
    of_classifier, _ = macs(classifier, decoded.feature)
    return sum(p.numel() for part in parts for p in part.parameters()), of_encoder + of_decoder + of_classifier

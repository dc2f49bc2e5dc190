"""FFNets by their published names, without storage: what they are made of and what they cost."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from seglab.backbones.ffnet import FFNet
from seglab.classifiers import Linear
from seglab.decoders import ffnet as decoders
from seglab.interop import ffnet as interop


@lru_cache
def encoder(name: str) -> FFNet:
    with torch.device("meta"):
        return FFNet(name)


@lru_cache
def decoder(kind: type, channels: tuple, strides: tuple, num_classes: int, **chosen: str) -> nn.Module:
    with torch.device("meta"):
        return kind(channels, strides, num_classes, **chosen)


def assembled(name: str, num_classes: int) -> dict[str, nn.Module]:
    """The parts that the overrides of a published name choose, without storage."""
    words = dict(each.split("=") for each in interop.overrides(name))
    backbone = encoder(interop.backbone(name))
    kind = {"ffnet": decoders.FFNet, "ffnet_category": decoders.FFNetCategory}[words["decoder"]]
    chosen = {key.partition(".")[2]: value for key, value in words.items() if key.startswith("decoder.")}
    made = decoder(kind, backbone.channels, backbone.strides, num_classes, **chosen)
    kernel, dropout = int(words.get("classifier.kernel", 1)), float(words["classifier.dropout"])
    with torch.device("meta"):
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

    hooks = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(count))
        elif isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x  # costs the meta device more time than everything else
    with torch.no_grad():
        result = module(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counted), result


def cost(name: str, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters of a network of 19 classes, and its multiply-adds for an image."""
    _, decoder, classifier = parts = list(assembled(name, 19).values())
    of_encoder, maps = encoded(interop.backbone(name), size)
    of_decoder, decoded = macs(decoder, maps)
    of_classifier, _ = macs(classifier, decoded.feature)
    return sum(p.numel() for part in parts for p in part.parameters()), of_encoder + of_decoder + of_classifier

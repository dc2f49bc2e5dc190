"""Any timm network that can be built with ``features_only``, as a backbone.

What timm leaves to its users is settled here, once: which of the maps are taken, their memory layout, images of a size
that the network was not trained at, dilation, and where the weights come from.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.backbones import weights as files
from seglab.backbones.pyramid import Pyramid
from seglab.backbones.statistics import IMAGENET
from seglab.checks import within
from seglab.errors import ConfigError

DEFAULTS: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}
"""Options that let transformers take images of any size; each is left out where a network does not know it.

``always_partition`` because timm decides from the size the network was *trained* at whether the windows of Swin's last
stage are shifted: at 224 they are not, while the published segmentation networks shift them.
"""


class Timm(nn.Module):
    """``forward(image [B, 3, H, W]) -> maps``, [B, channels[i], ~H / strides[i], ~W / strides[i]], finest first.

    An image whose size the network cannot divide (by its patches, or by 32) is padded at its right and bottom border
    with zeros, the mean colour of a normalised image, as Swin's published segmentation code does; what the maps then
    have beyond the image is cut off.

    Args:
        name: any name of ``timm.list_models()``, with or without the tag of its weights (``name.tag``).
        pretrained: start from published weights: ``hub`` takes timm's, from the local cache if they are there, else
            downloaded; ``package`` those of an installed package; True tries the first, then the second.
        weights: start from a local ``.safetensors`` or ``.pth`` file instead.
        output_stride: the coarsest stride (8 or 16); strided convolutions beyond it become dilated ones.
        out_indices: the maps that are taken; by default the last four, or four evenly spaced ones of a plain ViT.
        drop_path_rate: stochastic depth; None keeps the network's own.
        image_size: the size [H, W] to build for: interpolates pretrained position tables, and is the only size that
            a network with a fixed grid will take.
        frozen_norm: batch normalisation keeps its statistics and parameters (fine-tuning on small batches).
        grad_checkpointing: recompute activations in the backward pass, for less memory and more time.
        pyramid: turn equal strides s (a plain ViT) into s/4, s/2, s, 2s.

    Raises:
        ConfigError: an unknown name, or an option that this network does not have.
        CheckpointError: weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        name: str = "resnet18",
        *,
        pretrained: bool | str = False,
        weights: str | None = None,
        output_stride: int | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float | None = None,
        image_size: int | Sequence[int] | None = None,
        frozen_norm: bool = False,
        grad_checkpointing: bool = False,
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        check_name(name)
        if pretrained and weights:
            raise ConfigError(
                f"both pretrained={str(pretrained).lower()} and weights={weights} — expected one source: set "
                "backbone.pretrained=false"
            )
        if drop_path_rate is not None:
            within("backbone.drop_path_rate", drop_path_rate, 0, 1)
        if isinstance(image_size, int):
            image_size = (image_size, image_size)
        size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        asked = {"output_stride": output_stride, "drop_path_rate": drop_path_rate, "img_size": size}
        self.name = name
        self.frozen_norm = frozen_norm
        chosen = {key: value for key, value in asked.items() if value is not None}
        model, self.options = create_features(name, chosen, out_indices)
        self.model = model
        if pretrained:
            path, state = files.pretrained(name, pretrained)
            files.fill(model, state, path, name, self.options)
        elif weights:
            files.fill(model, files.read(weights), weights, name, self.options)

        info = model.feature_info
        self.channels = tuple(info.channels())
        self.strides = tuple(info.reduction())
        self.nhwc = getattr(getattr(model, "output_fmt", None), "value", "NCHW") == "NHWC"
        if output_stride is not None and self.strides[-1] != output_stride:
            raise ConfigError(
                f"backbone {name} gives strides {self.strides} for output_stride={output_stride} — "
                f"set backbone.output_stride to {self.strides[-1]} or null"
            )
        self.multiple, self.fixed_size = self.probe(patch_size(model), size)
        if grad_checkpointing:
            self.recompute()
        self.pyramid = Pyramid(self.channels, self.strides) if pyramid else None
        if self.pyramid is not None:
            self.strides = self.pyramid.strides
        self.train()

    @staticmethod
    def statistics(node: Mapping[str, Any]) -> dict[str, Sequence[float]]:
        """Mean and std of the images that timm's weights of a network were trained on, on the scale 0..1."""
        source = timm.get_pretrained_cfg(str(node.get("name")), allow_unregistered=True)
        return IMAGENET if source is None else {"mean": source.mean, "std": source.std}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        size = (image.shape[-2], image.shape[-1])
        if self.fixed_size is not None and size != self.fixed_size:
            raise ConfigError(
                f"an image of {size[0]}x{size[1]} for backbone {self.name}, which was built for "
                f"{self.fixed_size[0]}x{self.fixed_size[1]} and takes no other size — set augment.crop to it and "
                "evaluate in windows of it (evaluation.mode=slide), or set backbone.image_size"
            )
        bottom, right = -size[0] % self.multiple, -size[1] % self.multiple
        maps = self.maps(F.pad(image, (0, right, 0, bottom)) if bottom or right else image)
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        if bottom or right:
            cover = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in self.strides]
            maps = tuple(x[..., :h, :w] for x, (h, w) in zip(maps, cover, strict=True))
        return maps

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The network's own maps as NCHW."""
        maps = self.model(image)
        return tuple(x.permute(0, 3, 1, 2) for x in maps) if self.nhwc else tuple(maps)

    def train(self, mode: bool = True) -> Timm:
        super().train(mode)
        if self.frozen_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval().requires_grad_(False)
        return self

    def probe(self, patch: int, size: tuple[int, int] | None) -> tuple[int, tuple[int, int] | None]:
        """Run small images of unusual sizes and compare the maps with what timm announces.

        Returns what an image's sides must be multiples of, and the only size that the network takes (None: any).
        """
        for multiple in (patch, math.lcm(patch, 32)):
            rows = -(-64 // multiple)
            small = (rows * multiple, (rows + 1) * multiple)
            if small == size:  # would prove nothing
                small = (small[1], small[0])
            reason = self.refusal(small)
            if reason is None:
                return multiple, None
        if size is not None:
            reason = self.refusal(size)
            if reason is None:
                return 1, size
        raise ConfigError(
            f"backbone {self.name} does not take images of {'x'.join(map(str, size or small))} ({reason}) — set "
            "backbone.image_size=[H, W] to a size that it can be built for (the crop), or choose another network"
        )

    def refusal(self, size: tuple[int, int]) -> str | None:
        """Why the network does not take an image of this size; None where it does."""
        try:
            self.check_maps(size)
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            return first_line(error)
        return None

    @torch.no_grad()
    def check_maps(self, size: tuple[int, int]) -> None:
        """Raises ConfigError: channels or strides other than announced; and whatever the network raises."""
        self.eval()
        like = next(self.model.parameters())
        maps = self.maps(torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype))
        for x, channels, stride in zip(maps, self.channels, self.strides, strict=True):
            near = all(n // stride <= m <= -(-n // stride) for n, m in zip(size, x.shape[-2:], strict=True))
            if x.ndim != 4 or x.shape[1] != channels or not near:
                raise ConfigError(
                    f"backbone {self.name} gives a map {list(x.shape)} where timm announces {channels} channels "
                    f"at stride {stride} — it cannot be used for segmentation; choose another backbone.name"
                )

    def recompute(self) -> None:
        """Switch gradient checkpointing on.

        Raises:
            ConfigError: the network cannot.
        """
        try:
            # timm's wrapper of plain ViTs leaves the switch to the network inside.
            network: Any = self.model if hasattr(self.model, "set_grad_checkpointing") else self.model.model
            network.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ConfigError(
                f"backbone {self.name} has no gradient checkpointing — set backbone.grad_checkpointing=false"
            ) from error

    def layers_below_head(self) -> dict[str, int]:
        """How many layers every parameter lies below the head, by name, as timm groups them; the last block is at 1.

        Raises:
            ConfigError: timm has no grouping for this network.
        """
        options = {key: value for key, value in self.options.items() if key != "out_indices"}
        with torch.device("meta"):
            whole: Any = timm.create_model(self.name, **options)
        if not hasattr(whole, "group_matcher"):
            raise ConfigError(f"timm does not group the layers of {self.name} — set optim.layer_decay=null")
        layers = group_parameters(whole, whole.group_matcher(), reverse=True)
        depth = {files.canonical(name): layer for name, layer in layers.items()}
        head = max(depth.values())
        return {name: head - depth.get(files.canonical(name), head) for name, _ in self.named_parameters()}


def check_name(name: str) -> None:
    """Raises ConfigError: timm has no such network or no such tag; names the nearest."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        near = f"the nearest are {', '.join(close)}" if close else "see timm.list_models()"
        raise ConfigError(f"timm has no network '{architecture}' — {near}; set backbone.name")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ConfigError(
            f"{architecture} has no weights tagged '{tag}' — expected {', '.join(tags) or 'no tag'}; set backbone.name"
        )


def create_features(
    name: str, options: dict[str, Any], out_indices: Sequence[int] | None
) -> tuple[Any, dict[str, Any]]:
    """Build the network with random weights; returns it and the options that it understood."""
    if out_indices is not None:
        return create(name, {**options, "out_indices": tuple(out_indices)})
    model, used = create(name, {**options, "out_indices": (-4, -3, -2, -1)}, fallback="out_indices")
    info = model.feature_info
    depth = len(info.info)
    # A plain ViT announces every block: the four are spread over its depth.
    if depth > 4 and len(set(info.reduction())) == 1:
        model, used = create(name, {**options, "out_indices": tuple((i + 1) * depth // 4 - 1 for i in range(4))})
    return model, used


def create(name: str, asked: dict[str, Any], fallback: str | None = None) -> tuple[Any, dict[str, Any]]:
    """``timm.create_model(features_only=True)`` with what was asked and as many of ``DEFAULTS`` as the network knows.

    Raises:
        ConfigError: an option that was asked for does not exist for this network, or a value is refused.
    """
    options = {**DEFAULTS, **asked}
    while True:
        try:
            return timm.create_model(name, features_only=True, **options), options
        except (TypeError, AssertionError, RuntimeError, ValueError, IndexError, AttributeError) as error:
            unknown = re.findall(r"'(\w+)'", str(error)) if "unexpected keyword argument" in str(error) else []
            dropped = [option for option in unknown if option in options and option not in asked]
            option = unknown[0] if unknown else None
            for default in dropped:
                del options[default]
            if dropped:
                continue
            if fallback in options:
                del options[fallback]
                fallback = None
            elif option in asked or asked.get("output_stride") or not isinstance(error, TypeError | AttributeError):
                raise refused(name, asked, option, error) from error
            else:
                raise


def refused(name: str, asked: dict[str, Any], option: str | None, error: Exception) -> ConfigError:
    """The error that names the option a network does not have, with what it would take."""
    keys = {"img_size": "image_size"}
    if option in (None, "output_stride") and asked.get("output_stride"):
        stride = asked["output_stride"]
        legal = [s for s in (8, 16, 32) if s != stride and can(name, {**asked, "output_stride": s})]
        supported = f"{' or '.join(map(str, legal))}" if legal else "null (it has no dilated form)"
        return ConfigError(f"backbone {name} refuses output_stride={stride} — set backbone.output_stride={supported}")
    if option is not None:
        key = keys.get(option, option)
        return ConfigError(f"backbone {name} has no option '{key}' — set backbone.{key}=null")
    given = ", ".join(f"backbone.{keys.get(k, k)}={v}" for k, v in asked.items()) or "its defaults"
    return ConfigError(f"timm refuses to build {name} with {given}: {first_line(error)} — change or drop what it names")


def can(name: str, asked: dict[str, Any]) -> bool:
    """Whether timm builds the network with these options."""
    try:
        timm.create_model(name, features_only=True, **asked)
    except (TypeError, AssertionError, RuntimeError, ValueError, IndexError, AttributeError):
        return False
    return True


def patch_size(model: nn.Module) -> int:
    """Side of the patches that the stem cuts the image into; 1 for a stem that takes any size.

    Such a stem (kernel = stride, no padding) refuses an image that it cannot divide, or drops its border.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.stride[0] == 1:
        return 1
    patch = first.kernel_size == first.stride and first.padding in ((0, 0), 0, "valid")
    return int(first.stride[0]) if patch else 1


def first_line(error: Exception) -> str:
    """An exception's text, short enough for a message."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]

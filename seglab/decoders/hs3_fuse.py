"""HS3-Fuse (Borse et al., "HS3", BMVC 2021, arXiv 2111.02333): the features of all supervised layers, with context.

    a_i = g_i(f_i)                                        logits of the layer's clusters of classes
    u_i = psi_i(f_i)                                      3x3
    o_i = context(u_i, regions a_i)                       seglab.decoders.blocks.ObjectContext
    feature = fuse([o_1, up(o_2), ..., up(o_L)])          1x1

f_i: a map of the backbone; psi_i and fuse have normalisation and ReLU. What the layers' clusters are, and that their
logits are supervised, is HS3 (:mod:`seglab.hierarchy.clusters`, :mod:`seglab.losses.layers`); here the logits are kept,
and say where the soft regions are that each pixel is compared with. That features are aggregated is the paper's, the
structure is ours. With one layer and all classes it is OCR's head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm, ObjectContext, layer_classifier, resize_to
from seglab.errors import ConfigError
from seglab.types import Size

CLUSTERS = "clusters"
"""The branches ``clusters.backbone.i`` are the logits a_i."""


class HS3Fuse(Decoder):
    """Decoded feature at the stride of the finest of its layers; the branches ``clusters.LAYER`` beside it.

    Args:
        tasks: ``{layer: backbone.i, clusters: [[class, …], …]}`` of each layer; clusters null: all classes.
        width: channels of u_i, o_i and the feature.
        key_width: channels in which pixels and regions are compared.
        kind: of the heads g_i: ``conv``, with a 3x3 convolution of ``width`` channels, or ``linear``.

    Raises:
        ConfigError: no layer, a layer that is no map of the backbone, clusters of another number of classes.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        tasks: Sequence[Mapping[str, Any]],
        width: int = 256,
        key_width: int = 128,
        kind: str = "conv",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        there = {f"backbone.{i}": i for i in range(len(self.channels))}
        clusters = {str(task["layer"]): task["clusters"] for task in tasks}
        if unknown := [layer for layer in clusters if layer not in there] or ([] if clusters else ["(none)"]):
            raise ConfigError(
                f"decoder=hs3_fuse joins maps of the backbone, and the layer {unknown[0]} is none — expected some of "
                f"{', '.join(there)}: set regularizer.layers=[…], or regularizer.plan to a plan of these"
            )
        for layer, each in clusters.items():
            if each is not None and (count := sum(map(len, each))) != num_classes:
                raise ConfigError(
                    f"the plan gives the layer {layer} clusters of {count} classes, the data has {num_classes} — make "
                    "the plan from a run on these data with python -m seglab.hs3 run=PROBE_RUN, and set "
                    "regularizer.plan=FILE"
                )
        self.layers = sorted(clusters, key=there.__getitem__)  # finest first
        self.maps = [there[layer] for layer in self.layers]
        counts = [num_classes if clusters[layer] is None else len(clusters[layer]) for layer in self.layers]
        of = [self.channels[i] for i in self.maps]
        self.classifiers = nn.ModuleList(
            [layer_classifier(c, k, kind, width, norm) for c, k in zip(of, counts, strict=True)]
        )
        self.projections = nn.ModuleList([ConvNormAct(c, width, 3, norm) for c in of])
        self.contexts = nn.ModuleList([ObjectContext(width, key_width, norm=norm) for _ in of])
        self.fuse = ConvNormAct(len(of) * width, width, 1, norm)
        self.out_channels = width
        self.stride = self.strides[self.maps[0]]
        sized = zip(self.layers, counts, self.maps, strict=True)
        self.branches = {f"{CLUSTERS}.{layer}": (k, self.strides[i]) for layer, k, i in sized}

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        used = [maps[i] for i in self.maps]
        regions = [classifier(x) for classifier, x in zip(self.classifiers, used, strict=True)]
        parts = zip(self.projections, self.contexts, used, regions, strict=True)
        found = [context(project(x), logits) for project, context, x, logits in parts]
        feature = self.fuse(torch.cat([resize_to(x, found[0]) for x in found], 1))
        named = zip(self.branches, regions, strict=True)
        return Decoded(feature=feature, extra={name: x for name, x in named if name in wanted})

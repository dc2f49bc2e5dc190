"""Supervision of inner layers, each with a task of its own: HS3 (Borse et al., BMVC 2021, arXiv 2111.02333).

    loss = sum over layers i of CE(up(g_i(f_i)), c_i(y)),        c_i(255) = 255

f_i: a layer's feature; g_i: its head, with an output for each cluster of classes; c_i: the cluster of each class; y:
the label. Deep supervision is the same with c_i the identity. The term's weight is lambda.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight, together
from seglab.losses.cross_entropy import CrossEntropy
from seglab.types import Batch, Output

MEND = "make the plan from a run on these data with python -m seglab.hs3 run=PROBE_RUN, and set regularizer.plan=FILE"


class LayerSupervision(Term):
    """Sum over the layers of the cross entropy of ``head.LAYER`` with the clusters of the labels.

    Args:
        tasks: ``{layer: NAME, clusters: [[class, …], …]}`` of each layer; clusters null: all classes, each by itself.
            Without tasks the term is not active.
        head: whose branches are read: of ``heads.NAME``, or of a decoder that publishes such.
        align_corners: of the resize to the labels.
        average: over ``valid`` pixels (those that are labelled), or ``all`` (void ones count as 0).

    Raises:
        ConfigError: tasks of another form, clusters that do not hold each class once.
    """

    maps: Tensor

    def __init__(
        self,
        tasks: Sequence[Mapping[str, Any]],
        head: str = "layers",
        weight: Weight = 0.1,
        align_corners: bool = False,
        average: str = "valid",
    ) -> None:
        self.tasks = {str(task["layer"]): checked(task) for task in tasks}
        branches = {f"{head}.{layer}": clusters and len(clusters) for layer, clusters in self.tasks.items()}
        super().__init__(branches, weight)
        self.entropies = nn.ModuleList([CrossEntropy(name, 1.0, align_corners, average) for name in self.branches])
        maps = [relabelling(clusters) for clusters in self.tasks.values()]
        self.register_buffer("maps", torch.stack(maps) if maps else torch.zeros(0, 256, dtype=torch.int64), False)

    @property
    def active(self) -> bool:
        return super().active and bool(self.tasks)

    def check_classes(self, num_classes: int) -> None:
        for layer, clusters in self.tasks.items():
            if clusters is not None and (count := sum(map(len, clusters))) != num_classes:
                raise ConfigError(
                    f"the plan gives the layer {layer} clusters of {count} classes, the data has {num_classes} — {MEND}"
                )

    def forward(self, output: Output, batch: Batch) -> Tensor:
        label = self.labels(batch)
        values = []
        for entropy, classes in zip(self.entropies, self.maps, strict=True):
            seen = replace(batch, label=classes[label])
            values += together([entropy], output, seen)  # type: ignore[list-item]
        return torch.stack(values).sum()


def checked(task: Mapping[str, Any]) -> list[list[int]] | None:
    """A task's clusters.

    Raises:
        ConfigError: they do not hold each class once, or are fewer than two.
    """
    clusters = task.get("clusters")
    if clusters is None:
        return None
    members = sorted(k for cluster in clusters for k in cluster)
    if members != list(range(len(members))) or not all(clusters) or len(clusters) < 2:
        raise ConfigError(
            f"the clusters {clusters} of the layer {task['layer']} — expected two or more, which hold each class once; "
            f"{MEND}"
        )
    return [list(cluster) for cluster in clusters]


def relabelling(clusters: Sequence[Sequence[int]] | None) -> Tensor:
    """c [256] int64: the cluster of each class; what is no class, void too, stays as it is."""
    found = torch.arange(256)
    for number, cluster in enumerate(clusters or ()):
        found[list(cluster)] = number
    return found

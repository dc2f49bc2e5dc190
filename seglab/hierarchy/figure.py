"""The curves of a plan, the targets, and what was chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seglab import figures, visualize
from seglab.hierarchy.clusters import target
from seglab.hierarchy.plan import Plan


def save(plan: Plan, path: Path) -> None:
    """Draw a panel for each layer and write the image."""
    with figures.house():
        visualize.save(draw(plan), path)


def draw(plan: Plan) -> np.ndarray:
    """RGB [h, w, 3]: for each layer with a curve its m(k), that of the last layer, the target and the chosen k."""
    shown = [layer for layer in plan.layers if layer.curve is not None]
    classes = len(plan.classes)
    k = np.arange(2, classes + 1)
    columns = min(3, max(1, len(shown)))
    rows = -(-max(1, len(shown)) // columns)
    figure = figures.figure(2.9 * columns + 0.4, 2.6 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for layer, axes in zip(shown, panels.flat, strict=False):
        assert layer.curve is not None
        if plan.final is not None:
            axes.plot(k, 100 * np.asarray(plan.final), color=figures.GREY, linestyle=":", label="last layer")
        if plan.reference is not None and layer.tan_theta is not None:
            line = 100 * target(k, classes, plan.reference, layer.tan_theta)
            axes.plot(k, line, color=figures.VERMILION, linestyle="--", linewidth=1, label="target")
            axes.plot(classes, 100 * plan.reference, "D", color=figures.GREY, markersize=4)
        axes.plot(k, 100 * np.asarray(layer.curve), color=figures.BLUE, marker=".", markersize=3, label="layer")
        chosen = len(layer.clusters)
        if chosen:
            axes.plot(
                chosen, 100 * layer.curve[chosen - 2], "o", color=figures.BLUE, markeredgecolor="black", markersize=7,
                label="chosen",
            )  # fmt: skip
        angle = "" if layer.tan_theta is None else f", tan θ = {layer.tan_theta:g}"
        said = f"{chosen} of {classes} clusters" if chosen else "not supervised"
        axes.set_title(f"{layer.name}: {said}{angle}")
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
    for axes in panels[:, 0]:
        axes.set_ylabel("mIoU of the clusters, %")
    for axes in panels[-1]:
        axes.set_xlabel("clusters of classes")
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.set_dpi(150)
    return visualize.pixels(figure)

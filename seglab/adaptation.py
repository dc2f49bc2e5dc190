"""What it costs to adapt to a video: time and FLOPs of a frame, side by side.

``python -m seglab.benchmark OVERRIDES --aux 'OVERRIDES'`` compares, with networks of initial weights on random frames:

* main: the network alone;
* frozen ensemble: the auxiliary network beside it, nothing learns;
* tent: the network's normalisation layers learn;
* adapting main: all of the network learns;
* AuxAdapt: the auxiliary network learns.

A frame is the passes through the networks, the loss, the backward pass, the optimiser and the prediction. FLOPs are
those of matrix products and convolutions, of the backward pass too. ``overhead`` is what a way takes beyond the main
network, and the reduction is the overhead of adapting main divided by that of AuxAdapt.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from seglab import cli

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from seglab.predictors.refine import Refinement
    from seglab.tasks.base import Task

WAYS = {
    "main": None,
    "frozen ensemble": ("aux_adapt", "predictor.refine.target=none"),
    "tent": ("tent",),
    "adapting main": ("aux_adapt", "predictor.refine.target=main"),
    "AuxAdapt": ("aux_adapt",),
}
"""What is compared: the predictor, and its options."""


class FrameCost(NamedTuple):
    """What one way of predicting takes for a frame."""

    gflops: float
    seconds: list[float]
    """One for each round."""


def refinements(main: Task, aux: Task, options: Sequence[str] = ()) -> dict[str, Refinement | None]:
    """The ways by name, behind a network.

    Args:
        options: overrides of those with an auxiliary network, such as ``predictor.refine.aux_scale=0.5``.

    Raises:
        ConfigError: an option or a network that they cannot take.
    """
    from seglab.build import instantiate

    def opened() -> Any:
        return SimpleNamespace(
            model=aux.model, spec=aux.spec, description=SimpleNamespace(path="--aux", checksum="initial weights")
        )

    found: dict[str, Refinement | None] = {}
    for name, way in WAYS.items():
        if way is None:
            found[name] = None
            continue
        beside = ["predictor.refine.unsure=0", *options] if way[0] == "aux_adapt" else []  # noise is no warning
        chosen = [f"predictor={way[0]}", *beside, *way[1:]]
        node = cli.compose("predict", ["ckpt=-", "source=-", "output=-", *chosen])["predictor"]["refine"]
        late = {"aux": opened} if "aux" in node else {}
        made = {**{key: value for key, value in node.items() if key not in late}, "_partial_": True}
        refinement: Refinement = (
            instantiate(made, "predictor.refine", **late) if late else instantiate(node, "predictor.refine")
        )
        refinement.attach(main.model.eval(), main.spec, main.protocol)
        found[name] = refinement
    return found


def predict(main: Task, image: torch.Tensor, refinement: Refinement | None) -> torch.Tensor:
    """Classes [1, H, W] of the next frame [1, 3, H, W], normalised, of a stream."""
    from seglab.inference import height_width, infer
    from seglab.ops.resize import resize_argmax
    from seglab.predictors.refine import without_gradients

    size = height_width(image)
    with without_gradients(refinement):
        own = refinement is not None and refinement.own_scores
        network = lambda view: main.model(view, size=main.protocol.next_size(height_width(view), size)).logits  # noqa: E731
        scores = image.new_empty(1, 0) if own else infer(network, image, main.protocol, size)
        if refinement is not None:
            scores = refinement.along(image, scores, ["frames"])
        return resize_argmax(scores, size)


def measure(
    main: Task, ways: Mapping[str, Refinement | None], size: tuple[int, int], rounds: int, warmup: int = 1
) -> dict[str, FrameCost]:
    """The cost of a frame in every way, which take turns; each round has a frame of its own."""
    import torch

    from seglab.timing import Clock, flop_counter

    device = next(main.model.parameters()).device
    clock = Clock(device)
    found = {}
    for name, way in ways.items():
        image = torch.randn(1, 3, *size, device=device)
        with flop_counter() as counter:
            predict(main, image, way)
        found[name] = FrameCost(counter.get_total_flops() / 1e9, [])
    for number in range(-warmup, rounds):
        image = torch.randn(1, 3, *size, device=device)
        for name, way in ways.items():
            seconds = clock.time(lambda way=way, image=image: predict(main, image, way))  # type: ignore[misc]
            if number >= 0:
                found[name].seconds.append(seconds)
    return found


def records(costs: Mapping[str, FrameCost]) -> list[dict[str, Any]]:
    """What is shown, a mapping for each way; the overhead is that beyond the first."""
    from seglab.timing import ratio

    base, made = next(iter(costs.values())), []
    for name, cost in costs.items():
        extra = [own - alone for own, alone in zip(cost.seconds, base.seconds, strict=True)]
        made.append(
            {
                "variant": name,
                "gflops": cost.gflops,
                "frame_ms": 1000 * statistics.median(cost.seconds),
                "frame_ratio": ratio(cost.seconds, base.seconds),
                "overhead_gflops": cost.gflops - base.gflops,
                "overhead_ms": 1000 * statistics.median(extra),
            }
        )
    return made


def reduction(found: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Overhead of adapting main divided by that of AuxAdapt, in FLOPs and in time; None where the latter is none."""
    rows = {row["variant"]: row for row in found}
    pairs = {key: (rows["adapting main"][key], rows["AuxAdapt"][key]) for key in ("overhead_gflops", "overhead_ms")}
    return {key: whole / small if small > 0 else None for key, (whole, small) in pairs.items()}


def table(found: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The costs of a frame."""
    from rich.table import Table

    made = Table("", title=title)
    columns = {
        "GFLOPs": "gflops",
        "frame, ms": "frame_ms",
        "ratio": "frame_ratio",
        "overhead, GFLOPs": "overhead_gflops",
        "overhead, ms": "overhead_ms",
    }
    for column in columns:
        made.add_column(column, justify="right")
    for row in found:
        made.add_row(row["variant"], *(f"{row[key]:.2f}" for key in columns.values()))
    return made

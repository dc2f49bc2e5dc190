"""AuxAdapt against its rivals on videos: ``python scripts/ablate_aux_adapt.py --main RUN --aux RUN --output FOLDER``.

Every row is an evaluation of the same main network on the same split: the network alone, the frozen ensemble, Tent, the
main network adapting, the loss on the auxiliary network alone, AuxAdapt, and AuxAdapt at other learning rates. The
table has mIoU and whatever else the metrics give of frames in their order (``metrics=video``: flicker, TC, PC), and
what a frame takes (median over some frames of the split, the rows taking turns). Flicker alone is no success: a single
class everywhere does not flicker.

Further arguments are those of ``seglab.evaluate``, for every row::

    python scripts/ablate_aux_adapt.py --main MAIN --aux AUX --output FOLDER split=val corruption=noise

``FOLDER`` gets an evaluation per row, ``results.json`` and ``results.md``. A row that is there is not evaluated again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from seglab import build, cli, evaluate, loading
from seglab.errors import ConfigError, UserError
from seglab.inference import Protocol
from seglab.predictors.base import Opened, choose_device
from seglab.runs import atomic
from seglab.timing import Clock

RATES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
ROWS: dict[str, tuple[str, ...]] = {
    "main": ("predictor=still",),
    "frozen ensemble": ("predictor=aux_adapt", "predictor.refine.target=none"),
    "tent": ("predictor=tent",),
    "adapting main": ("predictor=aux_adapt", "predictor.refine.target=main"),
    "AuxAdapt, loss on aux": ("predictor=aux_adapt", "predictor.refine.loss_on=aux"),
    "AuxAdapt": ("predictor=aux_adapt",),
}
UNINTERESTING = ("loss", "aAcc", "fwIoU", "mAcc", "mDice")


def rows(rates: Sequence[float], aux: str) -> dict[str, list[str]]:
    """The overrides of every row, by its name."""
    swept = {
        f"AuxAdapt, lr {rate:g}": ("predictor=aux_adapt", f"predictor.refine.optimizer.lr={rate}") for rate in rates
    }
    named = {**ROWS, **swept}
    return {
        name: [*given, f"predictor.aux={aux}"] if given[0] == "predictor=aux_adapt" else list(given)
        for name, given in named.items()
    }


def numbers(folder: Path, split: str) -> dict[str, float]:
    """The single numbers of an evaluation, by name; empty where there is none."""
    if atomic.read_json(folder / "status.json").get("status") != "done":
        return {}
    found = atomic.read_json(folder / "metrics.json")
    given = {key.removeprefix(f"{split}/"): value for key, value in found.items() if key.startswith(f"{split}/")}
    known = atomic.read_json(folder / "scores.json").get("scores") or {}
    return {
        name: float(value)
        for name, value in given.items()
        if isinstance(value, int | float) and (not known or name in known)
    }


def frames(options: Mapping[str, Any], count: int) -> list[torch.Tensor]:
    """The first frames [1, 3, H, W] uint8 of the split, in their order."""
    from seglab import checkpoint

    _, stored = checkpoint.open_file(options["ckpt"], allow_nonfinite=options["allow_nonfinite"])
    config = evaluate.configuration(stored, options)
    data = build.build_data(config, loading.kind_of(stored, options["trust"]).NEEDS)
    data.in_sequences = True
    found: list[torch.Tensor] = []
    for batches in data.test_dataloader():
        found += [image for batch in batches for image in batch.image.split(1)]
        if len(found) >= count:
            break
    return found[:count]


def seconds(options: Mapping[str, Mapping[str, Any]], images: Sequence[torch.Tensor], device: str) -> dict[str, float]:
    """Median time of a frame in every row; the rows take turns, and the first frame is for warming up."""
    predictors = {}
    for name, each in options.items():
        loaded = loading.load(each["ckpt"], choose_device(device), each["trust"], each["allow_nonfinite"])
        stored = loaded.description.config["evaluation"] if each["protocol"] == "stored" else {}
        protocol = Protocol.of(stored, each["evaluation"])
        refinement = build.build_refinement(each["predictor"])
        opened = Opened(
            loaded.model,
            loaded.task.PARTS,
            loaded.spec,
            loaded.description,
            protocol,
            choose_device(device),
            refinement,
        )
        predictors[name] = loaded.task.predictor(opened)
    clock = Clock(choose_device(device))
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for number, image in enumerate(images):
        array = image[0].permute(1, 2, 0).contiguous().numpy()
        for name, predictor in predictors.items():
            taken = clock.time(lambda p=predictor, a=array: p(a, "frames"))  # type: ignore[misc]
            if number:
                times[name].append(taken)
    return {name: statistics.median(each) for name, each in times.items()}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown of rows of numbers; mIoU and the time of a frame stand first and last."""
    names = dict.fromkeys(key for row in found.values() for key in row)
    inner = [key for key in names if key not in ("mIoU", "frame_ms", *UNINTERESTING)]
    columns = ["mIoU", *inner, *(["frame_ms"] if "frame_ms" in names else [])]
    lines = ["| row | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, row in found.items():
        cells = [
            f"{row[key]:.1f}" if key == "frame_ms" else f"{row[key]:.4f}" if key in row else "-" for key in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of seglab.evaluate, for every row")
    parser.add_argument("--main", required=True, help="the main network: a run folder, checkpoint or exported folder")
    parser.add_argument("--aux", required=True, help="the auxiliary network, of the same classes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES, help="learning rates of AuxAdapt")
    parser.add_argument("--frames", type=int, default=12, help="that are timed; 0: no times")
    parser.add_argument("--device", default="cpu", help="of the timed frames")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, float]] = {}
    composed: dict[str, dict[str, Any]] = {}
    try:
        for name, overrides in rows(given.rates, given.aux).items():
            folder = given.output / name.replace(",", "").replace(" ", "_")
            typed = [f"ckpt={given.main}", f"output={folder}", "images=0", *given.overrides, *overrides]
            composed[name] = cli.compose("evaluate", typed)
            split = composed[name]["split"]
            if not numbers(folder, split):
                evaluate.score(composed[name])
            found[name] = numbers(folder, split)
            if "mIoU" not in found[name]:
                raise ConfigError(f"{folder} holds no mIoU — expected an evaluation of task=semantic with its metrics")
        if given.frames:
            images = frames(composed["main"], given.frames + 1)
            for name, each in seconds(composed, images, given.device).items():
                found[name]["frame_ms"] = 1000 * each
    except UserError as error:
        cli.fail(str(error), error.exit_code)
    asked = {"main": given.main, "aux": given.aux, "overrides": given.overrides, "device": given.device}
    atomic.write_json(given.output / "results.json", atomic.jsonable({**asked, "rows": found}))
    atomic.write_text(given.output / "results.md", table(found))
    print(json.dumps(asked))
    print(table(found))


if __name__ == "__main__":
    main()

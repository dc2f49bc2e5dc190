"""Values of every classifier and every loss, as they are now: ``values.json`` holds them, ``test_values.py`` compares.

    python -m tests.values                   compare; exit code 1 where something is missing, left over or different
    python -m tests.values --write           add what is missing and remove what is left over; the rest stays as it is
    python -m tests.values --write cac Dice  and compute these anew

They say nothing about the published code (``tests/golden`` does), but need no file from outside: inputs, parameters and
persistent buffers are formulas in float64, so that they depend on no generator, and numbers of other platforms agree to
:data:`TOLERANCE`. Constants that the code computes (buffers that are not stored) are left as they are.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from seglab import build, cli, losses
from seglab.flow import Zero
from seglab.losses import Term
from seglab.models.inverse_net import Convolutional, InverseNet, Transformations
from seglab.models.normalise import Normalise
from seglab.types import IGNORE, Batch, Clip, Output

FILE = Path(__file__).with_suffix(".json")
COMMAND = "python -m tests.values --write"
TOLERANCE = 1e-9
"""Of a tensor's root mean square, or of a scalar's magnitude, where these are not below :data:`LEAST`."""
LEAST = 1e-6
"""What is zero but for rounding differs by more than a part of itself."""
SAMPLES = 5
B, K, C = 2, 5, 6
MAP, IMAGE = (20, 24), (40, 48)

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "BoundaryAttention": {"certain": {"threshold": 2.0, "align_corners": True}},
    "BoundaryCrossEntropy": {"wide": {"radius": 3, "classes": "released"}},
    "InverseDistance": {
        "wide": {"activation": "identity", "tiles": 2, "radius": 3, "classes": "released"},
        "geodesic": {"distance": "geodesic"},
    },
    "CrossEntropy": {
        "smooth": {"average": "all", "align_corners": True, "label_smoothing": 0.1},
        "released": {"average": "image", "class_weight": "histogram"},
        "hard": {"ohem_threshold": 0.3, "ohem_min_kept": 700, "class_weight": [1.0, 0.5, 2.0, 1.5, 3.0]},
    },
    "CategoryCrossEntropy": {"smooth": {"label_smoothing": 0.1}},
    "Dice": {"labelled": {"ignore_void": True, "align_corners": True}},
    "Distillation": {
        "plain": {"entropy": "none", "class_wise": False, "smoothness": 0.8},
        "student": {"entropy": "student", "eps": 0.1},
        "target": {"entropy": "target", "edges": "map", "edge_size": 4, "edge_border": 3},
        "fine": {"edges": "label"},
    },
    "Focal": {
        "mask": {"classes": "present", "ignore_void": False, "align_corners": True},
        "balanced": {"alpha": None, "gamma": 1.5},
    },
    "LayerSupervision": {
        "clusters": {
            "tasks": [{"layer": "backbone.2", "clusters": [[4], [0], [1], [3], [2]]}],
            "average": "all",
            "align_corners": True,
        },
    },
    "MotionConsistencyLoss": {"still": {"flow": Zero()}},
    "PerceptualConsistencyLoss": {"match": {"form": "match"}},
    "Lovasz": {"image": {"per_image": True, "align_corners": True}},
    "TeacherDistillation": {"soft": {"temperature": 2.0}},
    "TransformationError": {"matrices": {"distance": "geodesic"}},
    "Relation": {"dot": {"similarity": "dot"}, "soft": {"tau": 5.0, "eps": 0.01}},
}
"""Loss class -> name -> options. Every class also has the values of its defaults."""
NEEDED: dict[str, dict[str, Any]] = {
    "LayerSupervision": {"tasks": [{"layer": "backbone.2", "clusters": None}, {"layer": "feature", "clusters": None}]},
}
"""Loss class -> options that have no default, for settings that do not choose them."""
GIVEN = {"weight", "head", "branch", "boundary", "student", "teacher", "network", "extractor", "block"}
"""Parameters of terms that choose what is read, how much it counts, and how much of it is in memory at once."""


# Inputs


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers from -1 to 1 of a shape, float64; the square keeps rows from being shifted copies of each other."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.1 * n * n + n + phase).sin().reshape(shape)


def label() -> Tensor:
    """[B, H, W] with void pixels, strewn and in a block; class 4 is absent, class 3 from the first image."""
    b, i, j = torch.meshgrid(*(torch.arange(size) for size in (B, *IMAGE)), indexing="ij")
    made = (2 * (i // 7) + j // 9 + b) % (3 + b)
    made[0, 10:22, 14:31] = IGNORE
    return made.masked_fill((b == 1) & ((i * j) % 11 == 3), IGNORE)


def batch() -> Batch:
    """The labels, with an image that nothing reads, and clips of two frames."""
    category = torch.arange(B)
    return Batch(image=wave((B, 3, *IMAGE), 0), label=label(), category=category, clip=clip(), names=("a", "b"))


def clip() -> Clip:
    """A frame and the next one, with a flow that is unknown in a corner."""
    frames = (127 * (1 + wave((B, 2, 3, *IMAGE), 2))).to(torch.uint8)
    flow = 2 * wave((B, 2, 2, *IMAGE), 3)
    flow[:, :, :, :9, :11] = torch.nan
    flow[:, 0] = 0
    first, offset = torch.zeros(B, dtype=torch.int64), torch.tensor([[0, 1]] * B)
    return Clip(frames=frames, shown=frames, index=first, offset=offset, flow=flow)


def fill(module: nn.Module) -> None:
    """Give every parameter and persistent buffer its values, by its place in the order of names."""
    trained = {name for name, _ in module.named_parameters()}
    state = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    for place, name in enumerate(sorted(state)):
        made = wave(tuple(state[name].shape), 1 + 0.7 * place)
        state[name].copy_(0.5 * made if name in trained else 1 + 0.5 * made)  # a variance is positive


@contextmanager
def double() -> Iterator[None]:
    """What is built inside is float64 from the start, tables of constants too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Values


def brief(x: Tensor) -> dict[str, Any]:
    """A tensor in two numbers, which no exchange of two elements leaves alone."""
    x = x.detach().flatten()
    return {"rms": float(x.square().mean().sqrt()), "waved": float((x * wave((len(x),), 0.3)).mean())}


def summary(x: Tensor) -> dict[str, Any]:
    """These two, the mean and some elements."""
    flat = x.detach().flatten()
    places = torch.linspace(0, len(flat) - 1, SAMPLES).round().long()
    return {**brief(x), "mean": float(flat.mean()), "samples": flat[places].tolist()}


def branches(output: Output) -> dict[str, Tensor]:
    """The tensors of an output by name."""
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    inner = {name: x for value in values.values() if isinstance(value, Mapping) for name, x in value.items()}
    return {name: x for name, x in (values | inner).items() if isinstance(x, Tensor)}


def of_output(output: Output) -> dict[str, Any]:
    """Branch -> its shape and summary."""
    return {name: {"shape": list(x.shape), **summary(x)} for name, x in sorted(branches(output).items())}


def of_loss(loss: Tensor, at: Tensor) -> dict[str, Any]:
    """A loss, and its gradient at a tensor (null where none reaches it)."""
    (gradient,) = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    return {"value": float(loss.detach()), "gradient": None if gradient is None else summary(gradient)}


def options() -> list[str]:
    """The files of conf/classifier."""
    return sorted(path.stem for path in (cli.conf_dir() / "classifier").glob("*.yaml"))


def of_classifier(option: str, *overrides: str) -> dict[str, Any]:
    """Everything about a file of conf/classifier: its branches without and with labels, and its losses."""
    cfg = cli.compose("train", [f"classifier={option}", "run_dir=.", *overrides])
    with double():
        classifier = build.instantiate(cfg["classifier"], "classifier", in_channels=C, num_classes=K)
        criterion = build.build_criterion(cfg)
    fill(classifier.eval())
    feature, given = wave((B, C, *MAP), 0.5).requires_grad_(), batch()
    without, output = classifier(feature), classifier(feature, given.label)
    found = {f"{option}/unlabelled/{name}": value for name, value in of_output(without).items()}
    found |= {f"{option}/labelled/{name}": value for name, value in of_output(output).items()}
    found |= {f"{option}/loss/{name}": of_loss(term(output, given), feature) for name, term in criterion.named()}
    total = criterion(output, given).total
    found[f"{option}/loss"] = of_loss(total, feature)
    total.backward()
    learnt = {name: parameter.grad for name, parameter in classifier.named_parameters()}
    return found | {f"{option}/gradient/{name}": None if x is None else brief(x) for name, x in learnt.items()}


def classes() -> list[str]:
    """The public loss terms."""
    public = {name: getattr(losses, name) for name in losses.__all__}
    return sorted(n for n, kind in public.items() if issubclass(kind, Term) and kind is not Term)


def parameters(name: str) -> set[str]:
    """What a loss class can be told beside what it reads."""
    return set(inspect.signature(getattr(losses, name)).parameters) - GIVEN


class Branches(SimpleNamespace):
    """Tensors that a term asks for by name, of the whole image."""

    pixels = None

    def read(self, name: str) -> Tensor:
        return getattr(self, name)


class Teacher(nn.Module):
    """What :func:`seglab.load` gives, of a network that says the same of every image."""

    description = SimpleNamespace(checksum="")

    @property
    def model(self) -> nn.Module:
        return self

    def forward(self, image: Tensor) -> Output:
        return Output(logits=3 * wave((B, K, *MAP), 5))


class Estimator(Teacher):
    """What :func:`seglab.load` gives, of an inverse-transformation network."""

    def __init__(self) -> None:
        super().__init__()
        net = Convolutional(8, widths=(4,), hidden=(6,), transformations=Transformations(8))
        self.net = InverseNet(Normalise([0.0] * 3, [1.0] * 3), net.double())
        self.tile = self.net.tile
        fill(self)

    def forward(self, image: Tensor) -> Output:
        return self.net(image)


class Shrunk(nn.Module):
    """A feature extractor: the mean colours of 4x4 pixels, and their squares."""

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(image.double() / 255, 4)
        return torch.cat([small, small.square()], 1)


NETWORKS: dict[str, type[Teacher]] = {"InverseDistance": Estimator}
"""Loss class -> the network that it learns from, where it is none of classes."""
SHAPES: dict[str, tuple[int, ...]] = {
    "boundary": (B, 1, *MAP), "presence": (B, K), "truth": (B, K), "theta": (B, 3, 3), "true_theta": (B, 3, 3),
}  # fmt: skip
"""Of branches that are no logits of classes."""


def of_term(name: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A loss class with options, and its gradient at the branch that learns, which it names first."""
    needs, chosen = inspect.signature(getattr(losses, name)).parameters, {**NEEDED.get(name, {}), **chosen}
    with double():
        opened = {"network": NETWORKS.get(name, Teacher), "extractor": Shrunk}
        term = getattr(losses, name)(**chosen, **{key: opens for key, opens in opened.items() if key in needs})
    usual = (B, K) if name.startswith(("Category", "Transformation")) else (B, K, *MAP)  # of whole images
    made = {
        branch: 3 * wave((B, K, C) if "prototypes" in branch else SHAPES.get(branch, usual), place)
        for place, branch in enumerate(term.branches)
    }
    learns = next(iter(made.values())).requires_grad_()
    return of_loss(term(Branches(**made), batch()), learns)


def of_class(name: str) -> dict[str, Any]:
    """A loss class with each of its settings."""
    settings = {"default": {}, **SETTINGS.get(name, {})}
    return {f"{name}/{setting}": of_term(name, chosen) for setting, chosen in settings.items()}


def compute(name: str) -> dict[str, Any]:
    """The values of a file of conf/classifier or of a loss class."""
    return of_class(name) if name in classes() else of_classifier(name)


# The file


def stored() -> dict[str, Any]:
    """What the file holds."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def belonging(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of one classifier or loss class."""
    return {key: value for key, value in values.items() if key.startswith(f"{name}/")}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A sentence for each key that is missing, left over or different."""
    said = [f"{key} has no stored value — add it with: {COMMAND}" for key in found if key not in expected]
    said += [
        f"{key} is stored but not computed any more — remove it with: {COMMAND}" for key in expected if key not in found
    ]
    for key in found.keys() & expected.keys():
        said += [f"{key}: {difference}" for difference in unequal(found[key], expected[key])]
    return sorted(said)


def unequal(found: Any, expected: Any, what: str = "", scale: float | None = None) -> Iterator[str]:
    """How two values of one key differ."""
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        for name in found:
            yield from unequal(found[name], expected[name], f"{what} {name}".strip(), expected.get("rms"))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, pair in enumerate(zip(found, expected, strict=True)):
            yield from unequal(*pair, f"{what} {place}", scale)
    elif isinstance(found, float) and isinstance(expected, float):
        if not abs(found - expected) <= TOLERANCE * max(
            abs(expected) if scale is None else scale, LEAST
        ):  # NaN differs
            yield f"{what} is {found!r}, stored {expected!r}"
    elif found != expected or type(found) is not type(expected):
        yield f"{what} is {found!r}, stored {expected!r}"


def write(values: Mapping[str, Any]) -> None:
    """One line per key, 13 digits."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(x) for name, x in value.items()}
        if isinstance(value, list):
            return [short(x) for x in value]
        return float(f"{value:.13g}") if isinstance(value, float) else value

    lines = [f"{json.dumps(key)}: {json.dumps(short(values[key]), allow_nan=False)}" for key in sorted(values)]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", nargs="*", metavar="NAME", help="add what is missing, and compute NAME anew")
    given = parser.parse_args().write
    names = [*options(), *classes()]
    if unknown := set(given or ()) - set(names):
        parser.error(f"{', '.join(sorted(unknown))} — expected some of {', '.join(names)}")
    found = {key: value for name in names for key, value in compute(name).items()}
    before = stored()
    if given is not None:
        anew = {key for name in given for key in belonging(name, found)}
        write({key: found[key] if key in anew else before.get(key, found[key]) for key in found})
    left = differences(found, stored())
    print("\n".join(left) or f"{len(found)} values, all as stored")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Reference tensors for the golden tests.

They lie in ``$SEGLAB_GOLDEN``, by default ``golden`` in the ``shared`` folder beside the checkout: ``NAME.json``
describes ``NAME.safetensors``. A test names its kind and runs once for every file of it::

    @pytest.mark.golden("ssa_dice_*")
    def test_dice(golden): ...

    @pytest.mark.golden("cac_*", exclude="cac_distill_*")
    def test_network(golden): ...

or asks for all of them with the fixture ``golden_files("aug_crop_*")``. Without the folder the tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import nn

from seglab.classifiers.base import Classifier, Output
from seglab.losses.base import Criterion
from seglab.types import Batch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("SEGLAB_GOLDEN") or ROOT.parent / "shared" / "golden")


@dataclass(frozen=True)
class Golden:
    """One reference file: its sidecar and its tensors."""

    path: Path
    """The sidecar."""

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.sidecar["config"]

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What is beside the sidecar; empty where everything stands in it."""
        file = self.path.with_suffix(".safetensors")
        return load_file(file) if file.is_file() else {}

    @cached_property
    def double(self) -> dict[str, torch.Tensor]:
        """The outputs in float64, under the same keys; empty where there is no such twin."""
        file = self.path.with_suffix(".f64.safetensors")
        return load_file(file) if file.is_file() else {}


def find(pattern: str, exclude: str | tuple[str, ...] = ()) -> list[Golden]:
    """Every reference file whose name fits a pattern; a bare prefix means everything that begins with it."""
    pattern = pattern if "*" in pattern else f"{pattern}*"
    excluded = (exclude,) if isinstance(exclude, str) else exclude
    paths = sorted(FOLDER.glob(f"{pattern}.json"))
    return [Golden(path) for path in paths if not any(fnmatch(path.stem, pattern) for pattern in excluded)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(pattern, exclude=()): run once for every reference file of a kind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None or "golden" not in metafunc.fixturenames:
        return
    files = find(*marker.args, **marker.kwargs)
    if files:
        metafunc.parametrize("golden", files, ids=[file.name for file in files])
    else:
        skip = pytest.mark.skip(reason=f"no reference files {marker.args[0]} in $SEGLAB_GOLDEN")
        metafunc.parametrize("golden", [pytest.param(None, marks=skip)], ids=["none"])


@pytest.fixture
def golden_files() -> Callable[..., list[Golden]]:
    """``golden_files(pattern, exclude=())``; skips the test where there is none."""

    def files(pattern: str, exclude: str | tuple[str, ...] = ()) -> list[Golden]:
        return find(pattern, exclude) or pytest.skip(f"no reference files {pattern} in $SEGLAB_GOLDEN")

    return files


@pytest.fixture
def close() -> Callable[..., None]:
    """``close(actual, expected, tolerance, what)``: equal up to a part of the tensor's largest magnitude."""

    def check(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str = "") -> None:
        actual = actual.detach().reshape(expected.shape).double()
        scale = expected.abs().max().double().clamp(min=1e-12)
        error = ((actual - expected).abs().max() / scale).item()
        assert error <= tolerance, f"{what}: off by {error:.2e} of the largest magnitude, allowed {tolerance:.0e}"

    return check


@dataclass(frozen=True)
class Choice:
    """What a file of conf/classifier builds."""

    classifier: Callable[..., Classifier]
    terms: dict[str, Any]


@pytest.fixture
def load_classifier() -> Callable[..., Choice]:
    """``load_classifier("ssa", "loss.semantic.weight=0")``: conf/classifier/ssa.yaml with overrides."""

    def load(name: str, *overrides: str) -> Choice:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(f"classifier/{name}", overrides=list(overrides))
        made = instantiate(config, _convert_="all")
        return Choice(made["classifier"], made["loss"])

    return load


class ChannelMask(nn.Module):
    """Dropout of fixed channels: a multiplier [B, C], in training only."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask[:, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask if self.training else x


def renamed(key: str, names: dict[str, str]) -> str:
    """Our name of a parameter of the published code."""
    theirs = max((prefix for prefix in names if f"{key}.".startswith(f"{prefix}.")), key=len)
    return names[theirs] + key[len(theirs) :]


@pytest.fixture
def check_network(load_classifier: Callable[..., Choice], close: Callable[..., None]) -> Callable[..., None]:
    """A whole classifier against a file: every ``out.*``, ``loss.*`` and ``grad.*`` tensor in it.

    Args of the function: file, dtype, class, name in conf/classifier, then the published code's names of parameters,
    outputs and losses -> ours.
    """

    def check(
        golden: Golden,
        dtype: torch.dtype,
        kind: type[Classifier],
        name: str,
        names: dict[str, str],
        outputs: dict[str, str],
        losses: dict[str, str],
    ) -> None:
        given = golden.tensors
        exact = dtype == torch.float64
        expected = golden.double if exact else given
        if not expected:
            pytest.skip(f"{golden.name} has no float64 twin")
        tolerance, of_gradient = (1e-9, 1e-9) if exact else (1e-5, 2e-5)

        choice = load_classifier(name)
        made = choice.classifier(in_channels=golden.config["C"], num_classes=golden.config["K"])
        assert isinstance(made, kind)
        # The official behaviour is what the class does by itself, too, and not only with the options of its YAML.
        for classifier in (kind(golden.config["C"], golden.config["K"]), made):
            state = {renamed(k.removeprefix("param."), names): v for k, v in given.items() if k.startswith("param.")}
            classifier.load_state_dict(state)
            mask = given.get("dropout_mask")
            classifier.dropout = nn.Identity() if mask is None else ChannelMask(mask.to(dtype))
            classifier.to(dtype)
            feature = given["feat"].to(dtype, copy=True).requires_grad_()
            batch = Batch(feature, given["target"], ("",) * len(feature))

            output = classifier.eval()(feature)
            assert output.missing() >= classifier.Output.label_branches()
            for key, value in expected.items():
                if key.startswith("out.") and key.endswith("_eval"):
                    branch = outputs[key.removeprefix("out.").removesuffix("_eval")]
                    close(getattr(output, branch), value, tolerance, key)

            output = classifier.train()(feature, batch.label)
            found = Criterion(choice.terms)(output, batch)
            weights = {name: term.weight_at(0) for name, term in choice.terms.items()}
            for key, value in expected.items():
                kind_of_key, _, what = key.partition(".")
                if kind_of_key == "out" and what in outputs:
                    close(getattr(output, outputs[what]), value, tolerance, key)
                elif key == "loss.total":
                    close(found.total, value, tolerance, key)
                elif kind_of_key == "loss":
                    close(weights[losses[what]] * found.parts[losses[what]], value, tolerance, key)
                elif kind_of_key == "out":
                    assert what.endswith("_eval") or what == "edge_mask", f"{key} is not checked"
            found.total.backward()
            parameters = dict(classifier.named_parameters())
            for key, value in expected.items():
                if key == "grad.feat":
                    close(feature.grad, value, of_gradient, key)
                elif key.startswith("grad."):
                    close(parameters[renamed(key.removeprefix("grad."), names)].grad, value, of_gradient, key)

    return check


@pytest.fixture
def check_distillation(load_classifier: Callable[..., Choice], close: Callable[..., None]) -> Callable[..., None]:
    """The distillation term of a file in conf/classifier against every variant in a reference file."""

    def check(golden: Golden, dtype: torch.dtype, name: str, term: str) -> None:
        tensors, exact = golden.tensors, dtype == torch.float64
        suffix = ".f64" if exact else ""
        for variant in golden.sidecar["variants"]:
            options = [f"loss.{term}.{key}={float(variant[key])}" for key in ("smoothness", "eps")]
            loss = load_classifier(name, *options).terms[term]
            student = tensors["pred"].to(dtype, copy=True).requires_grad_()
            teacher = tensors["soft"].to(dtype, copy=True).requires_grad_()
            fields = {loss.student: student, loss.teacher: teacher}
            output = _Logits(**{"logits": student, **fields})
            value = loss(output, Batch(student, tensors["target"], ()))
            what = f"{golden.name} {variant['variant']}"
            close(value, tensors[f"{variant['variant']}.loss{suffix}"], 1e-9 if exact else 1e-5, what)
            gradient, none = torch.autograd.grad(value, (student, teacher), allow_unused=True)
            assert none is None, "the teacher is held fixed"
            expected = tensors[f"{variant['variant']}.grad_pred{suffix}"]
            close(gradient, expected, 1e-9 if exact else 2e-5, f"gradient of {what}")

    return check


@dataclass(frozen=True, kw_only=True)
class _Logits(Output):
    oracle: torch.Tensor

"""Reference tensors for the golden tests.

They lie in ``$SEGLAB_GOLDEN``, by default ``golden`` in the ``shared`` folder beside the checkout: ``NAME.json``
describes ``NAME.safetensors``. A test names its kind and runs once for every file of it::

    @pytest.mark.golden("ssa_dice_*")
    def test_dice(golden): ...

    @pytest.mark.golden("cac_*", exclude="cac_distill_*")
    def test_network(golden): ...

or asks for all of them with the fixture ``golden_files("aug_crop_*")``. Without the folder the tests are skipped.

What a sidecar says is either a fact about the tensors, which ``Golden.understand`` checks against them, or an option,
which the test reads. Anything else fails: a file must not pass for having been computed in a way that nobody looked at.
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

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import nn

from seglab.classifiers.base import Classifier
from seglab.losses.base import Criterion
from seglab.types import IGNORE, Batch, Output

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("SEGLAB_GOLDEN") or ROOT.parent / "shared" / "golden")

FACTS = {
    "file", "kind", "what", "note", "numbers_from", "method", "keys", "parameters", "float64_file", "torch", "opencv",
    "official_head", "seed", "feature_relu", "ignore_index", "B", "K", "C", "hw", "feat_hw", "label_hw",
    "classes_present_per_image", "classes_in_target", "fully_ignored_images",
}  # fmt: skip
"""What a sidecar says about where its tensors come from and what they look like: nothing that a test could set."""
SHAPES = [
    ("B", "feat", [0]), ("C", "feat", [1]), ("feat_hw", "feat", [2, 3]), ("label_hw", "target", [1, 2]),
    ("B", "pred", [0]), ("K", "pred", [1]), ("hw", "pred", [2, 3]),
    ("B", "pred_proto", [0]), ("K", "pred_proto", [1]), ("C", "pred_proto", [2]),
]  # fmt: skip
"""Fact, tensor, and the tensor's axes that the fact is about."""


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
        return self.sidecar.get("config", {})

    def understand(self, *options: str) -> dict[str, Any]:
        """The sidecar's values of ``options`` (those it has), after every other thing it says was recognised.

        Raises:
            AssertionError: the sidecar says something that is neither a known fact nor one of ``options``, or a fact
                that its tensors contradict.
        """
        said = {key: value for key, value in self.sidecar.items() if key != "config"} | self.config
        unknown = said.keys() - FACTS - set(options)
        assert not unknown, f"{self.name}: its sidecar says {sorted(unknown)}, which this test does not understand"
        assert said.get("ignore_index", IGNORE) == IGNORE
        for key, about in self.sidecar.get("keys", {}).items():
            if isinstance(about, dict) and key in self.tensors:
                assert list(self.tensors[key].shape) == about["shape"], f"{self.name}: {key}"
        for name, key, axes in SHAPES:
            if name in self.config and key in self.tensors:
                shape = list(self.tensors[key].shape)
                found = [shape[axis] for axis in axes]
                assert found == np.atleast_1d(self.config[name]).tolist(), f"{self.name}: {name} against {key} {shape}"
        return {key: said[key] for key in options if key in said}

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
    outputs and losses -> ours, and the sidecar's options -> the keys of the configuration that they set.
    """

    def check(
        golden: Golden,
        dtype: torch.dtype,
        kind: type[Classifier],
        name: str,
        names: dict[str, str],
        outputs: dict[str, str],
        losses: dict[str, str],
        options: dict[str, list[str]],
    ) -> None:
        said = golden.understand("eval_only", "dropout", *options)
        given = golden.tensors
        exact = dtype == torch.float64
        expected = golden.double if exact else given
        if not expected:
            pytest.skip(f"{golden.name} has no float64 twin")
        tolerance, of_gradient = (1e-9, 1e-9) if exact else (1e-5, 2e-5)
        mask, dropout = given.get("dropout_mask"), said.get("dropout", "p=0")
        assert dropout.startswith("p=0" if mask is None else "explicit mask"), f"dropout={dropout!r}"

        overrides = [f"{key}={said[option]}" for option, keys in options.items() if option in said for key in keys]
        choice = load_classifier(name, *overrides)
        made = choice.classifier(in_channels=golden.config["C"], num_classes=golden.config["K"])
        assert isinstance(made, kind)
        # The official behaviour is what the class does by itself, too, and not only with the options of its YAML.
        for classifier in (kind(golden.config["C"], golden.config["K"]), made):
            state = {renamed(k.removeprefix("param."), names): v for k, v in given.items() if k.startswith("param.")}
            classifier.load_state_dict(state)
            classifier.dropout = nn.Identity() if mask is None else ChannelMask(mask.to(dtype))
            classifier.to(dtype)
            feature = given["feat"].to(dtype, copy=True).requires_grad_()

            output = classifier.eval()(feature)
            assert output.missing() >= classifier.Output.label_branches()
            of_evaluation = {k: v for k, v in expected.items() if k.startswith("out.") and k.endswith("_eval")}
            if said.get("eval_only"):  # then there is no other pass that an output could be of
                of_evaluation = {k: v for k, v in expected.items() if k.startswith("out.")}
            for key, value in of_evaluation.items():
                found = getattr(output, outputs[key.removeprefix("out.").removesuffix("_eval")])
                assert found.isfinite().all(), key
                assert (found[value == 0] == 0).all(), f"{key}: zero vectors have exact results"
                close(found, value, tolerance, key)
            if said.get("eval_only"):
                assert of_evaluation
                assert not [key for key in expected if key.startswith(("loss.", "grad.")) or key == "target"]
                continue

            batch = Batch(image=feature, label=given["target"], names=("",) * len(feature))
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
        for variant in golden.understand("variants")["variants"]:
            assert variant.keys() <= {"variant", "smoothness", "eps", "loss"}, variant
            options = [f"loss.{term}.{key}={float(variant[key])}" for key in ("smoothness", "eps")]
            loss = load_classifier(name, *options).terms[term]
            student = tensors["pred"].to(dtype, copy=True).requires_grad_()
            teacher = tensors["soft"].to(dtype, copy=True).requires_grad_()
            fields = {loss.student: student, loss.teacher: teacher}
            output = _Logits(**{"logits": student, **fields})
            value = loss(output, Batch(image=student, label=tensors["target"], names=()))
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

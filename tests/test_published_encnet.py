"""The published rows of EncNet: what their files say of the network is what is built."""

from __future__ import annotations

import pkgutil
import re

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seglab import build, cli
from tests.conftest import each, network

ROWS = sorted(path for path in (cli.conf_dir() / "experiment").glob("*.yaml") if "encnet" in path.stem)
BUILT = re.compile(r"# Built: ([\d.]+) M parameters, ([\d.]+) GMACs \(deployed; one image of (\d+)x(\d+)\)\.")


def test_the_page_and_the_files_have_the_same_rows_and_published_figures():
    page = (cli.conf_dir().parent / "docs/encnet.md").read_text()
    listed = dict(re.findall(r"^\| `(\w*encnet\w*)` \| (.*\d.*) \| .* \|$", page, re.MULTILINE))
    assert listed.keys() == {path.stem for path in ROWS}
    for path in ROWS:
        said = " ".join(line for line in path.read_text().splitlines() if line.startswith("# Published:"))
        assert set(re.findall(r"\d+\.\d+", listed[path.stem])) == set(re.findall(r"\d+\.\d+", said)) != set()


@pytest.mark.parametrize(
    "row",
    each([path.stem for path in ROWS], "ade20k_encnet_resnet50", "encnet_cifar10"),
)
def test_parameters_and_multiply_accumulates_are_those_of_the_built_network(row):
    text = (cli.conf_dir() / f"experiment/{row}.yaml").read_text()
    said = BUILT.search(text)
    assert said, "the file says what is built"
    cfg = cli.compose("train", [f"experiment={row}", "backbone.pretrained=false", "run_dir=."])
    size = [int(said[3]), int(said[4])]
    assert size == cfg["augment"]["crop"]
    images = {"ADE20K": 20210, "PascalContext59": 4998, "PascalContext60": 4998, "VOC2012": 10582, "CIFAR10": 50_000}
    epochs = {"ADE20K": 120, "PascalContext59": 80, "PascalContext60": 80, "VOC2012": 80, "CIFAR10": 600}
    target = cfg["data"]["dataset"]["_target_"]
    name = target.rpartition(".")[2]
    per_epoch = images[name] // (cfg["data"]["batch_size"] * cfg["trainer"]["devices"])
    assert cfg["trainer"]["max_steps"] == pytest.approx(epochs[name] * per_epoch, rel=2e-3)
    classes = len(pkgutil.resolve_name(target).spec.classes)
    with FakeTensorMode():  # sizes only: nothing is computed
        model = network(cfg, classes).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *size))
    parameters = sum(p.numel() for p in model.parameters())
    assert (said[1], said[2]) == (f"{parameters / 1e6:.2f}", f"{counter.get_total_flops() / 2e9:.2f}")


@pytest.mark.parametrize("option", each(["resnet50s_d8", "resnet101s_d8"], "resnet50s_d8"))
def test_their_backbones_have_the_published_stem_and_the_first_block_of_a_stage_half_its_dilation(option):
    with hydra.initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
        node = OmegaConf.to_container(hydra.compose(f"backbone/{option}"))["backbone"]
    with torch.device("meta"):
        backbone = build.instantiate({**node, "pretrained": False}, "backbone")
    convs = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    assert backbone.strides == (4, 8, 8, 8)
    assert [m.out_channels for name, m in convs.items() if "layer" not in name] == [64, 64, 128]
    for stage, (first, others) in {"layer3": (1, 2), "layer4": (2, 4)}.items():
        found = [m.dilation[0] for name, m in convs.items() if stage in name]
        assert found == [first, *[others] * (len(found) - 1)]

"""Every option of every group composes, builds and runs: a new YAML is a new test."""

from __future__ import annotations

import re
from pathlib import Path

import hydra
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from seglab import build, cli
from seglab.multirun import plan
from seglab.train import fit
from seglab.types import Batch
from tests.conftest import SMALL_NET, TINY

ROOT = cli.conf_dir()
OPTIONS = sorted(
    (path.parent.relative_to(ROOT).as_posix(), path.stem)
    for path in ROOT.rglob("*.yaml")
    if path.parent not in (ROOT, ROOT / "base")  # roots, and what several files share: nothing to choose
)
RUN = {
    "heads", "augment", "callbacks", "classifier", "debug", "decoder", "evaluation", "experiment", "logger", "metrics",
    "optim", "task", "trainer",
}  # fmt: skip
"""Groups whose options train two steps. Backbones and ablations have walks below, data sets one in tests/data on their
miniatures, several processes one in test_train.py, launchers and searches theirs in tests/multirun."""
ELSEWHERE = {("trainer", "ddp")}


def of(group: str) -> list[str]:
    return [option for g, option in OPTIONS if g == group]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda x: x)
def test_every_option_composes(group, option, compose):
    cfg = compose("train", [f"{group}={option}"])
    assert cfg["seed"] == 0


@pytest.mark.parametrize(
    ("group", "option"), [o for o in OPTIONS if o[0] in RUN and o not in ELSEWHERE], ids=lambda x: x
)
def test_every_option_trains_saves_and_opens_again(group, option, compose, tmp_path):
    chosen = [f"{group}={option}", *TINY, *SMALL_NET]
    if option in ("wandb", "many"):
        chosen += ["logger.wandb.mode=offline"]
    if group == "debug":
        chosen = [c for c in chosen if "trainer.max" not in c and "val_check" not in c]
    if group == "experiment":  # on a small network and one process, with everything else as published
        chosen += [
            "data=scenes",
            "backbone=resnet18",
            "trainer=default",
            "trainer.devices=1",
            "trainer.precision=32-true",
        ]
        chosen.remove(SMALL_NET[0])
    cfg = compose("train", chosen)
    results = fit(cfg, tmp_path / "run")
    assert 0 <= results["test/mIoU"] <= 1
    from seglab import load

    network = load(tmp_path / "run/checkpoints/last.ckpt")
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(network(image).logits, network(image).logits)
        assert network(image).missing() >= type(network(image)).label_branches()


@pytest.mark.parametrize("option", of("backbone"))
def test_every_backbone_meets_a_decoder_and_a_classifier(option, compose):
    cfg = compose("train", [f"backbone={option}", "backbone.pretrained=false", "decoder.width=16", "classifier=cac"])
    model = build.build_model(cfg, num_classes=3)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = model.eval()(image).logits
    assert logits.shape[:2] == (1, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("option", of("classifier"))
@pytest.mark.parametrize("decoder", of("decoder"))
def test_any_classifier_meets_any_decoder_and_every_trained_parameter_gets_a_gradient(option, decoder, compose):
    width = "decoder.width=16"
    cfg = compose("train", [f"classifier={option}", f"decoder={decoder}", width, "heads=fcn", *TINY, SMALL_NET[0]])
    data = build.build_data(cfg)
    module = build.build_module(cfg, data.spec, probe=data.probe())
    K = module.spec.num_classes
    label = torch.randint(K, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = Batch(torch.randn(2, 3, 64, 64), label, ("a", "b"))
    losses = module.criterion(module(batch.image, batch.label), batch)
    losses.total.backward()
    without = [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert losses.total.isfinite()


@pytest.mark.parametrize("option", of("ablation"))
def test_every_row_of_every_ablation_trains_and_no_two_are_the_same(option):
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        cfg = hydra.compose("train", [f"ablation={option}"], return_hydra_config=True)
        assert cfg.hydra.mode.name == "MULTIRUN"
        params, about = dict(cfg.hydra.sweeper.params), OmegaConf.to_container(cfg.sweep)
        assert "," in params["seed"]
        found = plan.jobs(
            plan.axes(params, ["seed=0", f"ablation={option}", *TINY, SMALL_NET[0]]),
            about["variants"],
            lambda overrides: hydra.compose("train", overrides),
        )
    assert len({plan.fingerprint(job.config) for job in found}) == len(found) > 1
    assert about["title"]
    rows = [{key: value for key, value in job.factors.items() if key != "seed"} for job in found]
    assert about["baseline"] in rows
    if about["published"]:
        first = {str(next(iter(row.values()))) for row in rows}
        assert {str(name) for name in about["published"]["values"]} <= first
        assert about["published"]["source"]
    for job in found:
        data = build.build_data(job.config)
        module = build.build_module(job.config, data.spec, probe=data.probe())
        label = torch.randint(module.spec.num_classes, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        batch = Batch(torch.randn(2, 3, 64, 64), label, ("a", "b"))
        losses = module.criterion(module(batch.image, batch.label), batch)
        losses.total.backward()
        assert losses.total.isfinite()
        assert not [n for n, p in module.model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_key_is_read_as_something_else_and_no_class_count_is_written_down(path: Path):
    def walk(node):
        if isinstance(node, dict):
            for key, value in node.items():
                assert isinstance(key, str), f"{key!r} is not a string"
                assert key not in ("num_classes", "in_channels", "out_channels"), key
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(yaml.safe_load(path.read_text()))
    assert not re.search(r"^\s*(on|off|yes|no):", path.read_text(), re.MULTILINE)


def test_learning_rates_written_with_an_exponent_are_numbers(compose):
    cfg = compose("train", ["optim.optimizer.lr=1e-3"])
    assert cfg["optim"]["optimizer"]["lr"] == pytest.approx(0.001)

"""From a probe with deep supervision to a plan, and from the plan to a network that costs nothing more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import seglab
from seglab import build, checkpoint, cli, evaluate, hs3
from seglab.checksum import checksum
from seglab.data.collate import group
from seglab.data.items import EvalItems
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.hierarchy import plan
from seglab.train import fit
from seglab.types import IGNORE
from tests.commands import run, run_apart
from tests.conftest import SMALL_NET, TINY, network, tiny

PROBE = ["regularizer=deep_supervision", "data.fraction=0.75", "regularizer.layers=[backbone.2,decoder.1]",
         "heads.layers.width=16", "test=null", "callbacks=minimal"]  # fmt: skip
HS3 = ["regularizer=hs3", "heads.layers.width=16", "test=null", "callbacks=minimal"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "run"
    fit(tiny(folder, *PROBE), folder)
    return folder


@pytest.fixture(scope="module")
def planned(probe) -> tuple[Path, str]:
    """The plan that the command makes, and what it says."""
    done = run("run=run", "device=cpu", cwd=probe.parent, module="seglab.hs3")
    return probe / plan.FILE, done.stdout


@pytest.fixture
def copied(probe, tmp_path) -> Path:
    """The probe's folder, to be changed."""
    shutil.copytree(probe, tmp_path / "run")
    return tmp_path / "run"


def options(folder: Path, *overrides: str) -> dict:
    return cli.compose("hs3", [f"run={folder}", "device=cpu", *overrides])


def data_of(folder: Path):
    config = checkpoint.describe(folder / "checkpoints/last.ckpt").config
    return build.build_data(config)


def write_plan(path: Path, clusters: list[list[int]], layers=("backbone.2", "decoder.1"), classes: int = 12) -> str:
    stored = {"format": 1, "classes": [f"c{k}" for k in range(classes)],
              "layers": [{"name": name, "clusters": clusters} for name in layers]}  # fmt: skip
    path.write_text(json.dumps(stored))
    return str(path)


IDENTITY = [[k] for k in range(12)]
THREE = [[0, 3, 4], [1, 2, 5, 6, 7], [8, 9, 10, 11]]


# The part that the probe did not see


def test_what_is_left_out_is_the_rest_of_the_training_split_of_the_same_seed(probe):
    data, again = data_of(probe), data_of(probe)
    seen, unseen = data.items("train").names, data.unseen().names
    assert len(seen) == 18
    assert len(unseen) == 6
    assert set(seen) | set(unseen) == set(data.source.names("train"))
    assert not set(seen) & set(unseen)
    assert again.unseen().names == unseen


def test_a_run_that_saw_all_has_no_such_part(probe):
    data = data_of(probe)
    data.fraction = 1.0
    with pytest.raises(ConfigError, match=r"data\.fraction=1 .*data\.fraction=0\.9"):
        data.unseen()


def test_matrices_are_of_the_left_out_images_and_each_layers_own_prediction(probe):
    data, loaded = data_of(probe), seglab.load(probe / "checkpoints/last.ckpt", heads=True)
    branches = {"backbone.2": "layers.backbone.2", "decoder.1": "layers.decoder.1"}
    found = hs3.count(loaded.task, data, branches, torch.device("cpu"))
    items = EvalItems(data.unseen())
    expected = {name: np.zeros((12, 12), int) for name in found}
    for index in range(len(items)):
        (batch,) = group([items[index]])
        with torch.no_grad():
            output = loaded.model(batch.image, wanted=frozenset(branches.values()))
        for name, matrix in expected.items():
            logits = output.read(branches.get(name, "logits"))
            shown = torch.nn.functional.interpolate(logits, batch.label.shape[-2:], mode="bilinear").argmax(1)
            valid = batch.label != IGNORE
            np.add.at(matrix, (batch.label[valid].numpy(), shown[valid].numpy()), 1)
    for name, matrix in found.items():
        assert matrix.sum() == expected[name].sum()
        assert np.abs(matrix - expected[name]).sum() <= 4, "ties and rounding of the resize alone"


# The plan


def test_the_command_writes_plan_and_image_and_says_what_was_chosen(planned, probe):
    path, said = planned
    made = plan.read(path)
    assert [layer.name for layer in made.layers] == ["backbone.2", "decoder.1"]
    assert len(made.classes) == 12
    assert made.about["checkpoint"] == checksum(checkpoint.open_file(probe / "checkpoints/last.ckpt")[0])
    assert (made.about["images"], made.about["of"], made.about["split"]) == (6, 24, "train")
    assert (probe / "hs3_plan.png").is_file()
    assert "decoder.1" in said
    assert "hs3_plan.json" in said


def test_angles_layers_and_the_place_of_the_file_are_options(probe, planned, tmp_path):
    given = ["tan_theta={decoder.1: 50}", "none_fits=drop", "layers=[decoder.1]", f"output={tmp_path}/other.json"]
    made = hs3.make(options(probe, *given))
    (layer,) = plan.read(tmp_path / "other.json").layers
    assert (layer.name, layer.tan_theta, layer.clusters) == ("decoder.1", 50.0, [])
    assert made.none_fits == "drop"
    assert layer.curve == plan.read(planned[0]).layers[1].curve
    assert (tmp_path / "other.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["layers=[backbone.9]"], r"did not supervise backbone\.9 — expected some of backbone\.2, decoder\.1"),
        (["tan_theta={backbone.9: 0}"], r"tan_theta names the layer backbone\.9"),
        (["none_fits=all"], "none_fits=all"),
        (["tan_theta=steep"], "tan_theta=steep"),
        (["+angle=3"], "angle"),
        (["data.root=nowhere", "run=nowhere"], "no checkpoints/last.ckpt"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(overrides, said, probe):
    with pytest.raises(ConfigError, match=said):
        hs3.make(options(probe, *overrides) if len(overrides) < 2 else cli.compose("hs3", overrides))


def rewritten(folder: Path, change) -> None:
    """The run's last checkpoint with another record."""
    path = folder / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    change(content[checkpoint.KEY]["config"])
    torch.save(content, path)


def test_a_run_that_is_no_probe_is_refused_with_the_command_that_makes_one(copied):
    rewritten(copied, lambda config: config["loss"].pop("layers"))
    with pytest.raises(ConfigError, match=r"no inner layer.*regularizer=deep_supervision data\.fraction=0\.9"):
        hs3.make(options(copied))


def test_a_probe_that_saw_the_whole_split_is_refused(copied):
    rewritten(copied, lambda config: config["data"].update(fraction=1.0))
    with pytest.raises(ConfigError, match=r"data\.fraction=0\.9"):
        hs3.make(options(copied))


def test_other_files_than_the_probes_are_refused(copied):
    about = json.loads((copied / "provenance.json").read_text())
    about["data"]["fingerprint"] = "other"
    (copied / "provenance.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="nobody knows which of them it has seen"):
        hs3.make(options(copied))


def test_a_missing_run_leaves_with_2(tmp_path):
    done = run("run=nowhere", cwd=tmp_path, module="seglab.hs3", check=False)
    assert done.returncode == 2
    assert "regularizer=deep_supervision" in done.stderr


# Training with it


def built(folder: Path, *overrides: str):
    """A task before training, and a batch of it."""
    config = tiny(folder, *overrides)
    data = build.build_data(config)
    return build.build_task(config, data.spec, build.build_criterion(config), {}), data.probe()


def learnt(folder: Path, *overrides: str):
    """The loss and the gradient of every parameter, of the first batch."""
    task, batch = built(folder, *overrides)
    torch.manual_seed(0)  # of the classifier's dropout
    losses = task.train().losses(batch, 0)
    losses.total.backward()
    return losses, {name: p.grad for name, p in task.model.named_parameters()}


SUPERVISED = ["regularizer.layers=[backbone.2,decoder.1]", "heads.layers.width=16"]


def test_identity_maps_are_deep_supervision_bit_for_bit(tmp_path):
    path = write_plan(tmp_path / "plan.json", IDENTITY)
    plain, gradients = learnt(tmp_path, "regularizer=deep_supervision", *SUPERVISED)
    ours, same = learnt(tmp_path, "regularizer=hs3", f"regularizer.plan={path}", "heads.layers.width=16")
    assert torch.equal(plain.total, ours.total)
    assert gradients.keys() == same.keys()
    assert sum(name.startswith("heads.layers.") for name in gradients) == 10
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)


@pytest.mark.parametrize(
    "off",
    [
        ["regularizer=hs3", "loss.layers.weight=0", "regularizer.plan="],
        ["regularizer=deep_supervision", "regularizer.layers=[]"],
    ],
)
def test_without_weight_or_layers_it_is_the_base_network(off, tmp_path):
    if off[-1].endswith("plan="):
        off = [*off[:-1], off[-1] + write_plan(tmp_path / "plan.json", THREE)]
    base, gradients = learnt(tmp_path)
    ours, same = learnt(tmp_path, *off)
    assert torch.equal(base.total, ours.total)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)


def test_it_costs_nothing_once_it_is_trained(tmp_path):
    path = write_plan(tmp_path / "plan.json", THREE)
    chosen = ["regularizer=hs3", f"regularizer.plan={path}", "heads.layers.width=16"]
    trained, _ = built(tmp_path, *chosen)
    base, deployed = (network(tiny(tmp_path, *given), 12).eval() for given in ([], chosen))
    assert [name for name in trained.model.state_dict() if name.startswith("heads.layers.")]
    assert deployed.state_dict().keys() == base.state_dict().keys()
    assert build.parameters(trained)["parameters"] == sum(p.numel() for p in base.parameters())
    base.load_state_dict({k: v for k, v in trained.model.state_dict().items() if not k.startswith("heads.")})
    base.to(memory_format=torch.channels_last)  # as the task has it, whose sums are in that order
    image = torch.randint(256, (1, 3, 50, 70), dtype=torch.uint8)
    found = {}
    for name, model in {"base": base, "trained": trained.model.eval()}.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            found[name] = model(image).logits, counter.get_total_flops()
    assert torch.equal(found["base"][0], found["trained"][0])
    assert found["base"][1] == found["trained"][1] > 0


def test_nothing_of_the_layers_heads_is_exported(probe, tmp_path):
    run(f"ckpt={probe}/checkpoints/last.ckpt", "output=exported", cwd=tmp_path, module="seglab.export")
    tensors, described = checkpoint.open_file(tmp_path / "exported")
    trained, _ = checkpoint.open_file(probe / "checkpoints/last.ckpt")
    assert sum(name.startswith("heads.layers.") for name in trained) > 0
    assert {name for name in trained if not name.startswith("heads.")} == set(tensors)
    assert "loss" in described.config


@pytest.mark.parametrize(
    ("classes", "layers", "said"),
    [
        (11, ("backbone.2",), r"clusters of 11 classes, the data has 12.*regularizer\.plan=FILE"),
        (12, ("backbone.8",), r"backbone\.8.*expected some of backbone\.0.*set regularizer\.layers"),
    ],
)
@pytest.mark.parametrize("part", ["regularizer=hs3", "decoder=hs3_fuse"])
def test_a_plan_that_does_not_fit_leaves_with_2_and_the_key_that_mends_it(part, classes, layers, said, tmp_path):
    path = write_plan(tmp_path / "plan.json", [[k] for k in range(classes)], (*layers, "backbone.3"), classes)
    given = [part, f"regularizer.plan={path}", *(["regularizer.layers=null"] if "fuse" in part else [])]
    with pytest.raises(ConfigError, match=said) as refused:
        built(tmp_path, *given)
    assert refused.value.exit_code == 2


def test_a_plan_that_is_not_there_leaves_with_2_on_the_command_line(tmp_path):
    done = run("regularizer=hs3", "regularizer.plan=nowhere.json", cwd=tmp_path, check=False)
    assert (done.returncode, "regularizer.plan=nowhere.json: " in done.stderr) == (2, True)
    done = run("regularizer=hs3", cwd=tmp_path, check=False)
    assert (done.returncode, "no value for regularizer.plan" in done.stderr) == (2, True)


def test_runs_need_no_plan_once_begun_go_on_to_the_same_bits_and_refuse_another(tmp_path):
    """With an average of the weights, too."""
    path = write_plan(tmp_path / "plan.json", THREE)
    steady = ["optim.schedule.power=0", "optim.schedule.warmup=0"]  # which does not depend on how long it goes on
    chosen = [*HS3[:-1], *steady, "callbacks=ema", "trainer.max_steps=2", "trainer.val_check_interval=2"]

    def config(name: str, plan: str, **changes) -> dict:
        made = tiny(tmp_path / name, *chosen, f"regularizer.plan={plan}")
        return {**made, "trainer": {**made["trainer"], **changes}, "resume": "auto"}

    fit(config("whole", path), tmp_path / "whole")
    fit(config("parts", path, max_steps=1, val_check_interval=1), tmp_path / "parts")
    fit(config("parts", write_plan(tmp_path / "moved.json", THREE)), tmp_path / "parts")
    whole, parts = (
        torch.load(tmp_path / f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for state in ("state_dict", "current_model_state"):
        assert any("heads.layers." in name for name in whole[state])
        assert all(torch.equal(value, parts[state][name]) for name, value in whole[state].items())
    other = write_plan(tmp_path / "other.json", [[0], list(range(1, 12))])
    with pytest.raises(CheckpointError, match=r"loss\.layers\.tasks"):
        fit(config("parts", other), tmp_path / "parts")

    for file in tmp_path.glob("*.json"):
        file.unlink()
    asked = ["trainer.accelerator=cpu", "images=0", "data.num_workers=0", f"output={tmp_path}/evaluated"]
    found = evaluate.score(cli.compose("evaluate", [f"ckpt={tmp_path}/whole", "split=val", *asked]))
    assert 0 <= found["mIoU"] <= 1


def test_the_fused_network_is_built_without_its_plan(tmp_path):
    path = write_plan(tmp_path / "plan.json", THREE, ("backbone.1", "backbone.2", "backbone.3"))
    config = tiny(tmp_path / "run", "decoder=hs3_fuse", f"regularizer.plan={path}")
    Path(path).unlink()
    model = network(config, 12).eval()
    assert {name: k for name, (k, _) in model.decoder.branches.items()} == {
        "clusters.backbone.1": 3,
        "clusters.backbone.2": 3,
        "clusters.backbone.3": 12,
    }
    logits = model(torch.randint(256, (1, 3, 45, 61), dtype=torch.uint8)).logits
    assert logits.shape[:2] == (1, 12)
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["regularizer=hs3", "decoder=hs3_fuse"])
def test_two_processes_train_it(part, tmp_path):
    path = write_plan(tmp_path / "plan.json", THREE, ("backbone.1", "backbone.2", "backbone.3"))
    ddp = ["trainer=ddp", "trainer.devices=2", "hydra.run.dir=two"]
    run_apart(part, f"regularizer.plan={path}", *TINY, *SMALL_NET, "test=null", *ddp, cwd=tmp_path)
    assert json.loads((tmp_path / "two/status.json").read_text())["status"] == "done"

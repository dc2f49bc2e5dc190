"""A run that goes on is the same run: what decides what is learnt is refused by name, what may change is said."""

from dataclasses import replace

import pytest
import torch

from seglab import checkpoint, resume
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError

SPEC = DatasetSpec("toy", ("sky", "road", "tree"), ((0, 0, 9), (8, 8, 8), (0, 7, 0)))
CONFIG = {
    "backbone": {"name": "resnet18", "pretrained": False},
    "decoder": {"_target_": "seglab.decoders.FPN", "width": 96},
    "classifier": {"_target_": "seglab.classifiers.CAC", "tau": 15.0},
    "heads": {},
    "loss": {"main": {"weight": 1.0}, "gt": {"weight": 1.0}},
    "optim": {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001}, "schedule": {"power": 0.9}},
    "task": {"compile": False},
    "augment": {"crop": [48, 64], "flip": 0.5},
    "evaluation": {"flip": False},
    "data": {"root": "/a", "batch_size": 8, "num_workers": 2, "eval_batch_size": 1},
    "trainer": {"devices": 1, "precision": "32-true", "max_steps": 100, "accumulate_grad_batches": 1},
    "callbacks": {"status": {}},
    "seed": 0,
}


def changed(key, value):
    """The configuration with one dotted key changed (None: taken out)."""
    config = {k: dict(v) if isinstance(v, dict) else v for k, v in CONFIG.items()}
    node, *path = config, *key.split(".")
    for part in path[:-1]:
        node[part] = dict(node.get(part) or {})
        node = node[part]
    node[path[-1]] = value
    return config


@pytest.fixture
def write(tmp_path):
    """``write(name, step=, **sections) -> path`` of a checkpoint of a network of one layer that training could go on from."""

    def save(name="last", step=20, config=CONFIG, **sections):
        weight = torch.full((2, 2), float(step))
        optimiser = {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        content = {
            "state_dict": {"task.model.weight": weight}, "global_step": step, "optimizer_states": [optimiser],
            "lr_schedulers": [{}], "loops": {}, "callbacks": {}, "pytorch-lightning_version": "2.6.6", **sections,
        }  # fmt: skip
        checkpoint.embed(content, config, SPEC, ["heads"])
        path = tmp_path / f"checkpoints/{name}.ckpt"
        checkpoint.AtomicCheckpointIO().save_checkpoint({k: v for k, v in content.items() if v is not None}, path)
        return path

    return save


@pytest.fixture
def model():
    return torch.nn.Linear(2, 2, bias=False)


def compare(path, config, spec=SPEC):
    return resume.compare(checkpoint.describe(path), config, spec)


# What may change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_steps", 200),
        ("trainer.val_check_interval", 10),
        ("trainer.accelerator", "gpu"),
        ("data.root", "/b"),
        ("data.eval_batch_size", 4),
        ("task.compile", True),
        ("evaluation.flip", True),
        ("test", "best"),
    ],
)
def test_how_long_where_and_what_is_measured_may_change_and_is_said(write, caplog, key, value):
    caplog.set_level("INFO", "seglab")
    (line,) = compare(write(), changed(key, value))
    assert line.startswith(f"{key}: ")
    assert f"resumed with a change: {line}" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_dir", "/elsewhere"),
        ("logger.wandb", {"mode": "offline"}),
        ("data.num_workers", 7),
        ("callbacks.insight", {"_target_": "seglab.callbacks.context_gap.ContextGap"}),
        ("backbone.pretrained", True),
    ],
)
def test_what_touches_nothing_may_change_without_a_word(write, caplog, key, value):
    caplog.set_level("INFO", "seglab")
    assert compare(write(), changed(key, value)) == []
    assert not caplog.records


def test_a_configuration_read_back_is_no_change(write):
    assert compare(write(config={**CONFIG, "augment": {"crop": (48, 64), "flip": 0.5}}), CONFIG) == []


def test_a_global_batch_may_be_dealt_to_other_devices(write):
    config = changed("data.batch_size", 4)
    config["trainer"] = {**config["trainer"], "devices": 2}
    assert compare(write(), config) == ["data.batch_size: 8 -> 4", "trainer.devices: 1 -> 2"]


# What may not


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classifier._target_", "seglab.classifiers.Cosine"),
        ("classifier.tau", 10.0),
        ("decoder.width", 16),
        ("backbone.name", "resnet50"),
        ("heads", {"aux": {"_target_": "seglab.heads.FCNHead"}}),
        ("optim.optimizer._target_", "torch.optim.SGD"),
        ("optim.optimizer.lr", 0.01),
        ("optim.schedule.power", 1.0),
        ("loss.gt", None),
        ("loss.gt.weight", 0.5),
        ("loss.dice", {"weight": 1.0}),
        ("augment.flip", 0.0),
        ("seed", 1),
        ("data.batch_size", 4),
        ("trainer.devices", 2),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.accumulate_grad_batches", 2),
        ("trainer.gradient_clip_val", 1.0),
    ],
)
def test_what_decides_what_is_learnt_is_refused_by_name_with_the_other_way(write, key, value):
    path = write()
    with pytest.raises(CheckpointError, match=rf"another training: {key}\S*: .*init_from={path}"):
        compare(path, changed(key, value))


def test_other_classes_are_refused_with_both_counts(write):
    streets = DatasetSpec("streets", ("sky", "road"), SPEC.palette[:2])
    with pytest.raises(CheckpointError, match=r"3 classes \(toy\).*2 \(streets\).*init_from="):
        compare(write(), CONFIG, streets)
    for classes in (("sky", "road", "bush"), ("road", "sky", "tree")):
        with pytest.raises(CheckpointError):
            compare(write(), CONFIG, replace(SPEC, classes=classes))


@pytest.mark.parametrize(("stored", "now"), [(True, False), (False, True)])
def test_averaging_is_neither_begun_nor_dropped_on_the_way(write, model, stored, now):
    path = write(averaging_state={"n_averaged": torch.tensor(3)} if stored else None)
    with pytest.raises(CheckpointError, match=r"averaging of weights.*callbacks=ema.*init_from="):
        resume.check(path, CONFIG, SPEC, model, averages=now, allow_nonfinite=False)
    assert resume.check(path, CONFIG, SPEC, model, averages=stored, allow_nonfinite=False) == []


def test_a_network_that_is_another_one_is_refused_by_its_tensors(write, model):
    with pytest.raises(CheckpointError, match=r"1 missing: bias"):
        resume.check(write(), CONFIG, SPEC, torch.nn.Linear(2, 2), False, False)
    model.weight.requires_grad_(False)
    with pytest.raises(CheckpointError, match="trained 1 tensors; now 0"):
        resume.check(write(), CONFIG, SPEC, model, False, False)


# Damage


@pytest.mark.parametrize("section", ["optimizer_states", "loops", "lr_schedulers", "callbacks"])
def test_a_checkpoint_without_the_state_of_a_training_is_refused(write, section):
    with pytest.raises(CheckpointError, match=rf"has no {section}.*init_from="):
        resume.read(write(**{section: None}))


def test_no_optimiser_is_no_state_of_a_training(write):
    with pytest.raises(CheckpointError, match="has no optimizer_states"):
        resume.read(write(optimizer_states=[]))


def test_a_network_alone_is_no_state_of_a_training(tmp_path):
    with pytest.raises(CheckpointError, match="init_from="):
        resume.read(tmp_path / "model.safetensors")


def test_damage_to_the_optimiser_is_found(write):
    path = write()
    content = checkpoint.read(path)
    content["optimizer_states"][0]["state"][0]["exp_avg"][0, 0] = 3e30
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="state of its optimiser.*checksum"):
        resume.read(path)


def test_weights_that_are_no_numbers_are_not_gone_on_with(write):
    path = write(state_dict={"task.model.weight": torch.full((2, 2), float("nan"))})
    with pytest.raises(CheckpointError, match="allow_nonfinite=true"):
        resume.read(path)
    assert resume.read(path, allow_nonfinite=True)[1].step == 20


def test_auto_takes_the_newest_whole_checkpoint_and_says_what_it_passed_over(write, tmp_path, caplog):
    assert resume.find(tmp_path) is None
    best, last = write("best", 10), write("last", 20)
    assert resume.find(tmp_path) == last
    content = checkpoint.read(last)
    content["state_dict"]["task.model.weight"][0] = 7
    torch.save(content, last)
    assert resume.find(tmp_path) == best
    last.write_bytes(last.read_bytes()[:100])
    assert resume.find(tmp_path) == best
    assert "checksum" in caplog.text
    assert "last.ckpt is truncated" in caplog.text
    assert f"falling back to {best} (step 10)" in caplog.text
    best.write_bytes(b"")
    with pytest.raises(CheckpointError, match="overwrite=true"):
        resume.find(tmp_path)


def test_of_two_checkpoints_of_one_step_the_last_is_taken(write, tmp_path):
    write("best", 20)
    last = write("last", 20)
    assert resume.find(tmp_path) == last


# From another folder


def test_what_belongs_to_a_checkpoint_of_another_folder_comes_along(write, tmp_path):
    path = write()
    write("best", 10)
    (tmp_path / "metrics.csv").write_text("step\n10\n")
    resume.adopt(path, tmp_path / "new")
    assert (tmp_path / "new/metrics.csv").read_text() == "step\n10\n"
    assert checkpoint.describe(tmp_path / "new/checkpoints/best.ckpt").step == 10
    assert not (tmp_path / "new/checkpoints/last.ckpt").exists()

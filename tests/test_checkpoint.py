"""A checkpoint is whole or absent, opens alone, runs no code, and says what does not fit."""

import json
import multiprocessing
import os
import random
import resource
import signal
import struct
import time

import pytest
import torch
from torch import nn

from seglab import checkpoint, loading
from seglab.checkpoint import AtomicCheckpointIO
from seglab.checksum import checksum
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError
from seglab.inference import Protocol
from seglab.initialise import init_from
from seglab.runs import atomic
from tests.conftest import network

SPEC = DatasetSpec("toy", ("sky", "road", "tree"), ((0, 0, 9), (8, 8, 8), (0, 7, 0)))
CONFIG = {
    "backbone": {"_target_": "seglab.backbones.Timm", "name": "test_resnet.r160_in1k", "pretrained": False},
    "decoder": {"_target_": "seglab.decoders.FCN", "_partial_": True, "width": 8},
    "classifier": {"_target_": "seglab.classifiers.Linear", "_partial_": True},
    "heads": {},
    "optim": {"_target_": "seglab.optim.Optimisation", "head_lr": 1.0},
    "data": {"batch_size": 8, "splits": {"train": "train", "val": "val", "test": "test"}},
    "trainer": {"devices": 1, "precision": "32-true"},
    "normalize": {"_target_": "seglab.models.normalise.Normalise", "mean": [120.0] * 3, "std": [60.0] * 3},
    "task": {"_target_": "seglab.tasks.Semantic"},
    "evaluation": {"_target_": "seglab.inference.Protocol"},
    **{node: {} for node in ("loss", "augment")},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return network(CONFIG, 3).eval()


def content(model, step=12, config=CONFIG, spec=SPEC, prefix="task.model.") -> dict:
    made = {
        "state_dict": {prefix + name: value for name, value in model.state_dict().items()},
        "global_step": step,
        "pytorch-lightning_version": "2.6.6",
    }
    checkpoint.embed(made, config, spec, ["heads"])
    return made


@pytest.fixture
def saved(model, tmp_path):
    AtomicCheckpointIO().save_checkpoint(content(model), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


# Opened alone


def test_the_network_comes_back_ready_to_predict_with_its_classes(model, saved):
    loaded = loading.load(saved)
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert loaded.spec == SPEC
    assert loaded.description.step == 12
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(image).logits, model(image).logits)


def test_the_package_offers_it_as_load(saved, model):
    import seglab

    assert same(seglab.load(str(saved)).model, model)


def test_loading_never_fetches_the_weights_it_is_about_to_replace(model, tmp_path):
    config = {**CONFIG, "backbone": {**CONFIG["backbone"], "pretrained": True, "weights": "/gone.pth"}}
    torch.save(content(model, config=config), tmp_path / "a.ckpt")
    assert same(loading.load(tmp_path / "a.ckpt").model, model)


def test_a_run_folder_gives_its_best_network_else_its_last(model, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name, step in (("last", 20), ("best", 10)):
        torch.save(content(model, step), tmp_path / f"checkpoints/{name}.ckpt")
    assert checkpoint.describe(tmp_path).step == 10
    (tmp_path / "checkpoints/best.ckpt").unlink()
    assert checkpoint.describe(tmp_path).step == 20
    with pytest.raises(CheckpointError, match="holds no network"):
        loading.load(tmp_path / "checkpoints")


@pytest.mark.parametrize("prefix", ["task.model._orig_mod.", "module.task.model.", "_orig_mod.task.model."])
def test_prefixes_of_wrappers_are_taken_off(model, tmp_path, prefix):
    torch.save(content(model, prefix=prefix), tmp_path / "a.ckpt")
    assert same(loading.load(tmp_path / "a.ckpt").model, model)


def test_an_exported_folder_holds_the_same_network(model, saved, tmp_path):
    loaded = loading.load(saved)
    folder = checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = loading.load(folder)
    assert same(again.model, model)
    assert (again.spec, again.description.step) == (SPEC, 12)
    assert same(loading.load(folder / "model.safetensors").model, model)


# Nothing runs


@pytest.mark.parametrize("opened", [loading.load, checkpoint.read, AtomicCheckpointIO().load_checkpoint])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(model, tmp_path, opened):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({**content(model), "extra": Touch()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt.*mkdir.*refused"):
        opened(tmp_path / "evil.ckpt")
    assert not (tmp_path / "run").exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "run").exists()  # the trap was live


def test_a_part_that_this_version_does_not_have_is_named(model, tmp_path):
    config = {**CONFIG, "decoder": {"_target_": "seglab.decoders.FutureDecoder", "_partial_": True}}
    torch.save(content(model, config=config), tmp_path / "a.ckpt")
    with pytest.raises(
        CheckpointError, match=r"its decoder names seglab.decoders.FutureDecoder, which this seglab does not have"
    ):
        loading.load(tmp_path / "a.ckpt")


# Broken files


def broken(path, how, model):
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "html":
        path.write_bytes(b"<!doctype html><title>404</title>")
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "undescribed":
        torch.save({"state_dict": model.state_dict()}, path)
    elif how == "half a description":
        torch.save({**content(model), "seglab": {"format": 1, "version": "0.1.0", "config": CONFIG}}, path)
    elif how == "newer":
        record = {**content(model)["seglab"], "format": 99, "version": "9.9"}
        torch.save({**content(model), "seglab": record}, path)
    elif how == "format 0":
        torch.save({**content(model), "seglab": {**content(model)["seglab"], "format": 0}}, path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "no checkpoint at"),
        ("format 0", "does not describe its network"),
        ("empty", "is empty"),
        ("truncated", "truncated or not a checkpoint"),
        ("html", "truncated or not a checkpoint"),
        ("list", "holds a list"),
        ("undescribed", "does not describe its network"),
        ("half a description", "damaged"),
        ("newer", "written by seglab 9.9"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(model, saved, how, said):
    broken(saved, how, model)
    for opened in (loading.load, checkpoint.describe):
        with pytest.raises(CheckpointError, match=said) as refused:
            opened(saved)
        assert str(saved) in str(refused.value)


@pytest.mark.parametrize("damage", ["header", "truncated", "shapes"])
def test_damaged_safetensors_are_refused(model, saved, tmp_path, damage):
    loaded = loading.load(saved)
    folder = checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    if damage == "header":
        path.write_bytes(struct.pack("<Q", 2**60) + whole[8:])
    elif damage == "truncated":
        path.write_bytes(whole[:-100])
    else:
        record = json.loads((folder / "config.json").read_text())
        record["config"]["decoder"]["width"] = 16
        (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"cannot be read|of another shape"):
        loading.load(folder)


def test_tensors_that_do_not_fit_are_listed_by_module(model, tmp_path):
    made = content(model)
    removed = [name for name in made["state_dict"] if name.startswith("task.model.decoder.")]
    for name in removed:
        made["state_dict"]["task.model.head." + name] = made["state_dict"].pop(name)
    torch.save(made, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=rf"{len(removed)} missing: decoder.*{len(removed)} unknown: head"):
        loading.load(tmp_path / "a.ckpt")


def test_an_older_format_is_migrated(model, tmp_path, monkeypatch):
    made = content(model)
    made["seglab"]["names"] = made["seglab"].pop("spec")  # as if this format had called it so
    torch.save(made, tmp_path / "old.ckpt")
    now = checkpoint.FORMAT
    monkeypatch.setattr(checkpoint, "FORMAT", now + 1)
    monkeypatch.setitem(checkpoint.MIGRATIONS, now, lambda r: {**r, "format": now + 1, "spec": r["names"]})
    assert checkpoint.describe(tmp_path / "old.ckpt").spec == SPEC


def test_format_1_called_the_long_and_the_short_side_scale(model, tmp_path):
    ours = {"_target_": "seglab.data.augment.Augment", "scale": [2048, 512], "flip": 0.5}
    protocol = {"_target_": "seglab.inference.Protocol", "scale": [64, 48], "multiscale_base": "scale"}
    made = content(model, config={**CONFIG, "augment": ours, "evaluation": protocol})
    made["seglab"]["format"] = 1
    torch.save(made, tmp_path / "old.ckpt")
    config = checkpoint.describe(tmp_path / "old.ckpt").config
    assert config["augment"] == {"_target_": ours["_target_"], "long_short": [2048, 512], "flip": 0.5}
    assert Protocol.of(config["evaluation"]) == Protocol(long_short=(64, 48))
    made["seglab"]["config"]["augment"] = another = {"_target_": "mine.Augment", "scale": 2}
    torch.save(made, tmp_path / "old.ckpt")
    assert checkpoint.describe(tmp_path / "old.ckpt").config["augment"] == another


def test_a_record_whose_augmentation_normalised_gets_the_node_that_does_so_now(model, tmp_path):
    ours = {"_target_": "seglab.data.augment.Augment", "flip": 0.5, "mean": [1, 2, 3], "std": [4, 5, 6]}
    before = {key: node for key, node in CONFIG.items() if key != "normalize"}
    made = content(model, config={**before, "augment": ours}, prefix="model.")
    made["seglab"]["format"] = 2
    torch.save(made, tmp_path / "old.ckpt")
    config = checkpoint.describe(tmp_path / "old.ckpt").config
    assert config["augment"] == {"_target_": ours["_target_"], "flip": 0.5}
    assert config["normalize"]["mean"] == [1, 2, 3]
    assert loading.load(tmp_path / "old.ckpt").model.normalise.std == (4, 5, 6)


# Damage


def test_a_checksum_is_written_that_its_export_shares_and_that_every_tensor_decides(model, saved, tmp_path):
    written = checkpoint.describe(saved).checksum
    assert written == checksum(model.state_dict())
    loaded = loading.load(saved)
    folder = checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    assert checkpoint.describe(folder).checksum == written
    for name, value in model.state_dict().items():
        changed = {**model.state_dict(), name: value + 1}
        assert checksum(changed) != written, name
    assert checksum(dict(reversed(model.state_dict().items()))) == written


@pytest.mark.parametrize("damage", ["a bit", "five tensors", "a shape"])
def test_tensors_that_are_not_those_written_are_refused(saved, damage):
    made = checkpoint.read(saved)
    state, names = made["state_dict"], sorted(made["state_dict"])
    if damage == "a bit":
        state["task.model.decoder.convs.0.0.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1 << 24  # of the exponent
    elif damage == "five tensors":
        for name in names[:5]:
            del state[name]
    else:
        state["task.model.decoder.convs.0.0.weight"] = state["task.model.decoder.convs.0.0.weight"].flatten()
    torch.save(made, saved)
    for opened in (loading.load, lambda path: init_from(network(CONFIG, 3), path)):
        with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged.*checksum"):
            opened(saved)


def test_a_file_of_before_there_were_checksums_is_opened(model, tmp_path):
    torch.save(content(model), tmp_path / "old.ckpt")
    assert checkpoint.describe(tmp_path / "old.ckpt").checksum is None
    assert same(loading.load(tmp_path / "old.ckpt").model, model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_unless_they_are_allowed(model, tmp_path, value):
    made = content(model)
    made["state_dict"]["task.model.decoder.convs.0.1.bias"] = torch.full((8,), value)
    AtomicCheckpointIO().save_checkpoint(made, tmp_path / "a.ckpt")
    with pytest.raises(
        CheckpointError, match=r"1 of \d+ tensors hold NaN or infinity: decoder\.convs\.0\.1\.bias.*allow_nonfinite"
    ):
        loading.load(tmp_path / "a.ckpt")
    assert not loading.load(tmp_path / "a.ckpt", allow_nonfinite=True).model.decoder.convs[0][1].bias.isfinite().any()


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("config", "decoder"), None, "cannot be built with seglab .*decoder is None"),
        (("config", "evaluation"), None, r"damaged \('config\.evaluation'\)"),
        (("spec", "palette"), [[0, 0, 9], [8, 8, 999], [0, 7, 0]], r"colour \(8, 8, 999\)"),
        (("spec", "palette"), 7, "damaged"),
        (("config", "decoder", "width"), -1, "cannot be built with seglab .*decoder"),
        (("config", "decoder", "width"), "wide", r"decoder\.width=wide — expected a whole number"),
        (("config", "classifier", "taau"), 3, "no parameter 'taau'"),
        (("config",), ["a"], "damaged"),
    ],
)
def test_a_damaged_record_is_named_with_what_is_wrong_in_it(model, tmp_path, keys, value, said):
    made = json.loads(json.dumps(content(model)["seglab"]))
    node = made
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    torch.save({**content(model), "seglab": made}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=said) as refused:
        loading.load(tmp_path / "a.ckpt")
    assert str(tmp_path / "a.ckpt") in str(refused.value)


# Written whole or not at all


def write_forever(path, number):
    while True:
        number += 1
        AtomicCheckpointIO().save_checkpoint({"number": number, "data": torch.full((200_000,), number)}, path)


def kill_while_writing(folder, times):
    """Gives how many writers were killed in the middle of a file."""
    path, number, torn = folder / "last.ckpt", 0, 0
    AtomicCheckpointIO().save_checkpoint({"number": 0, "data": torch.full((200_000,), 0)}, path)
    fork = multiprocessing.get_context("fork")
    for _ in range(times):
        before, deadline = path.stat().st_mtime_ns, time.time() + 20
        writer = fork.Process(target=write_forever, args=(path, number))
        writer.start()
        while path.stat().st_mtime_ns == before and time.time() < deadline:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))
        writer.kill()
        writer.join()
        found = checkpoint.read(path)
        assert found["number"] > number
        assert torch.equal(found["data"], torch.full((200_000,), found["number"]))
        torn += len(atomic.sweep(folder))
        assert [p.name for p in folder.iterdir()] == ["last.ckpt"]
        number = found["number"]
    return torn


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path):
    kill_while_writing(tmp_path, 10)


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_or_the_new_fifty_times(tmp_path):
    assert kill_while_writing(tmp_path, 50) > 0


def fill_up(path, told):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        AtomicCheckpointIO().save_checkpoint({"data": torch.zeros(1_000_000)}, path)
    except atomic.DiskFull as error:
        told.put(str(error))
    else:
        told.put("written")


def test_a_full_disk_keeps_the_previous_and_says_how_much_is_free(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"number": 1}, path)
    fork = multiprocessing.get_context("fork")
    told = fork.SimpleQueue()
    writer = fork.Process(target=fill_up, args=(path, told))
    writer.start()
    writer.join()
    message = told.get()
    assert str(path) in message
    assert "MiB free" in message
    assert checkpoint.read(path) == {"number": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


# Starting from other weights


def test_init_from_accounts_for_every_tensor(model, saved, caplog):
    caplog.set_level("INFO", "seglab")
    torch.manual_seed(1)
    other = network(CONFIG, 5)
    loaded = init_from(other, saved)
    assert set(loaded.new) == set(loaded.dropped) == {n for n in other.state_dict() if n.startswith("classifier.")}
    assert len(loaded.kept) + len(loaded.new) == len(other.state_dict())
    assert torch.equal(other.state_dict()[loaded.kept[0]], model.state_dict()[loaded.kept[0]])
    assert f"{len(loaded.kept)} tensors kept" in caplog.text
    assert "dropped: classifier" in caplog.text


def test_init_from_says_when_the_rows_of_a_classifier_stand_for_other_classes(saved, caplog):
    for classes, said in ((SPEC.classes, False), (SPEC.classes[::-1], True)):
        caplog.clear()
        init_from(network(CONFIG, 3), saved, classes=classes)
        assert ("sky is now tree" in caplog.text) == said


def test_init_from_takes_a_plain_state_dict_and_an_export(model, saved, tmp_path):
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    loaded = loading.load(saved)
    checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    for path in (tmp_path / "plain.pth", tmp_path / "export"):
        other = network(CONFIG, 3)
        assert init_from(other, path).new == []
        assert same(other, model)


def test_init_from_weights_of_which_none_fits_is_refused(saved):
    with pytest.raises(CheckpointError, match="none of its"):
        init_from(nn.Linear(2, 2), saved)

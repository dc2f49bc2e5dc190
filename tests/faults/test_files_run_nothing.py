"""No file that seglab opens runs code, reads a secret, fetches or opens anything, whatever the attack and the entry.

An *attack* puts a payload into an otherwise good file; an *entry* is a function behind a command that opens one. The
payload, where it runs, leaves a folder: the marker.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import urllib.request
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from safetensors.torch import save_file

import seglab
from seglab import build, checkpoint, cli, evaluate, export, predict, resume
from seglab.backbones import weights
from seglab.errors import CheckpointError, UserError
from seglab.initialise import init_from
from seglab.report import __main__ as sweep
from seglab.train import fit
from tests.conftest import SMALL_NET, TINY
from tests.report.synthetic import structure

setup_globals()  # Hydra's resolvers
cli.register_resolvers()
RESOLVERS = sorted(BaseContainer._resolvers)
SECRET = "SEGLAB_TEST_SECRET"


class Payload:
    """Unpickled, it makes the marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The content of a checkpoint of an untrained network, its options for every entry, and an image."""
    folder = tmp_path_factory.mktemp("good")
    config = cli.compose("train", ["classifier=cac", *TINY, *SMALL_NET, "trainer.max_steps=1", f"run_dir={folder}"])
    module = build.build_training(config, build.build_data(config).spec)
    content = {
        "state_dict": module.state_dict(), "global_step": 7, "pytorch-lightning_version": "2.6.6", "loops": {},
        "callbacks": {}, "lr_schedulers": [{}],
        "optimizer_states": [{"state": {}, "param_groups": [{"params": list(range(len(list(module.parameters()))))}]}],
    }  # fmt: skip
    checkpoint.embed(content, module.config, module.task.spec, module.task.TRAINING_PARTS)
    torch.save(content, folder / "good.ckpt")
    from PIL import Image

    Image.new("RGB", (40, 30)).save(folder / "a.png")
    options = {name: cli.compose(name, [f"{key}=x" for key in ("ckpt", "output")]) for name in ("evaluate", "export")}
    options["predict"] = cli.compose("predict", ["ckpt=x", "output=x", f"source={folder / 'a.png'}", "device=cpu"])
    return content, config, options, module


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The folder that must not appear. It also does when something is fetched, or opened as weights."""
    place = tmp_path / "marker"

    def sing(*args, **kwargs):
        place.mkdir(exist_ok=True)
        raise AssertionError("code from a file was run")

    for owner, name in [
        (weights, "fetch"), (weights, "read"), (weights, "fill"), (huggingface_hub, "hf_hub_download"),
        (urllib.request, "urlopen"), (socket, "create_connection"), (socket.socket, "connect"),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, sing)
    monkeypatch.setenv(SECRET, "secret")
    return place


# Doors


def through_predict(path, good, out):
    predict.predict_images({**good[2]["predict"], "ckpt": str(path), "output": str(out)})


def through_evaluate(path, good, out):
    options = copy.deepcopy(good[2]["evaluate"])
    options["trainer"]["accelerator"] = "cpu"
    evaluate.score({**options, "ckpt": str(path), "output": str(out), "images": 0})


def through_export(path, good, out):
    export.export(OmegaConf.create({**good[2]["export"], "ckpt": str(path), "output": str(out)}))


def through_resume(path, good, out):
    module = good[3]
    task = module.task
    resume.check(path, module.config, task.spec, task.model, averages=False, allow_nonfinite=False)


def through_init_from(path, good, out):
    init_from(copy.deepcopy(good[3].task.model), path)


ENTRIES = {
    "load": lambda path, good, out: seglab.load(path),
    "predict": through_predict,
    "evaluate": through_evaluate,
    "export": through_export,
    "resume": through_resume,
    "init_from": through_init_from,
}
OF_EXPORTS = [entry for entry in ENTRIES if entry != "resume"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_good_file_passes_every_entry(entry, good, tmp_path, monkeypatch):
    torch.save(good[0], tmp_path / "good.ckpt")
    ENTRIES[entry](tmp_path / "good.ckpt", good, tmp_path / "out")


# Ways: each changes the configuration, or the content of the file around it


def put(config, key, value):
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value


def make(marker):
    return {"_target_": "os.mkdir", "path": str(marker)}


TIMM = {"_target_": "seglab.backbones.Timm", "name": "resnet18"}
TARGETS = {
    **{f"target in {part}": (part, make) for part in ("backbone", "decoder", "classifier", "heads.aux")},
    "nested target": ("decoder.norm", lambda c: {"_target_": "torch.nn.BatchNorm2d", "deep": [{"er": make(c)}]}),
    "target through an import": (
        "decoder.norm", lambda c: {"_target_": "seglab.decoders.base.torch.os.mkdir", "path": str(c)}
    ),
    "partial target": ("classifier", lambda c: {"_target_": "functools.partial", "_partial_": True, "a": make(c)}),
    "function that fetches": ("classifier", lambda c: {"_target_": "seglab.backbones.weights.fetch", "name": "x"}),
    "function that opens": ("decoder.norm", lambda c: {"_target_": "seglab.backbones.weights.read", "path": "/x"}),
    "network that fetches": ("classifier", lambda c: {**TIMM, "pretrained": True}),
    "network inside a classifier that fetches": ("classifier.projector", lambda c: {**TIMM, "pretrained": True}),
    "network inside a classifier that opens": ("classifier.projector", lambda c: {**TIMM, "weights": str(c)}),
    "network of a hub": ("backbone.name", lambda c: "hf-hub:evil/network"),
    "network of a folder": ("backbone.name", lambda c: f"local-dir:{c}"),
    "arguments without names": ("backbone", lambda c: {"_target_": "seglab.backbones.Timm", "_args_": ["resnet18"]}),
    "class of Python": ("classifier", lambda c: {"_target_": "pathlib.Path.mkdir", "self": str(c)}),
}  # fmt: skip
OF_TRAINING = ("data", "loss", "task", "augment")
"""Nodes that evaluation builds as well; to the other entries they are text."""
INTERPOLATIONS = {
    **{f"resolver {name}": ("classifier.tau", f"${{{name}:{SECRET}}}") for name in RESOLVERS},
    "resolver that builds": ("classifier.tau", None),
    "value of another key": ("classifier.tau", "${seed}"),
    "in a list": ("augment.crop", ["${seed}", 64]),
    "in the name of a key": ("augment", {"${seed}": 1}),
    "inside a text": ("data.root", f"/data/${{oc.env:{SECRET}}}"),
    "in what no entry builds": ("optim.optimizer.lr", f"${{oc.env:{SECRET}}}"),
    "escaped": ("classifier.tau", r"\${seed}"),
}


def interpolated(config, attack, marker):
    key, value = INTERPOLATIONS[attack]
    if value is None:
        value = f"${{oc.create:{{_target_: os.mkdir, path: '{marker}'}}}}"
    put(config, key, value)


def written(content, config, path, exported):
    """The file with a changed configuration; gives what a entry opens."""
    changed = {**content, "seglab": {**content["seglab"], "config": config}}
    if not exported:
        torch.save(changed, path.with_suffix(".ckpt"))
        return path.with_suffix(".ckpt")
    path.mkdir()
    tensors = checkpoint.network_tensors(content)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**changed["seglab"], "step": 7}))
    return path


def refused(entry, path, good, out, marker):
    with pytest.raises(UserError) as error:
        ENTRIES[entry](path, good, out)
    assert error.value.exit_code == 2
    assert not marker.exists()
    assert "secret" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("exported", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["checkpoint", "export"])
@pytest.mark.parametrize("attack", TARGETS)
def test_only_parts_of_networks_are_built(attack, exported, good, marker, tmp_path):
    key, payload = TARGETS[attack]
    config = copy.deepcopy(good[0]["seglab"]["config"])
    put(config, key, payload(marker))
    path = written(good[0], config, tmp_path / "evil", exported)
    for entry in ("load", "predict", "evaluate", "export"):
        assert str(tmp_path / "evil") in refused(entry, path, good, tmp_path / "out", marker)


@pytest.mark.parametrize("named", [{"weights": "x.pth"}, {"pretrained": "hub"}, {"pretrained": True}])
def test_weights_of_metrics_are_opened_for_who_types_them_only(named, good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    extractor = {"_target_": "seglab.backbones.extractor.Extractor", "name": "resnet18", "pretrained": False, **named}
    put(config, "metrics.perceptual", {"_target_": "seglab.metrics.PerceptualConsistency", "extractor": extractor})
    path = written(good[0], config, tmp_path / "evil", False)
    assert "choose metrics= and its weights on the command line" in refused(
        "evaluate", path, good, tmp_path / "out", marker
    )


@pytest.mark.parametrize("part", OF_TRAINING)
def test_evaluation_builds_no_more_of_the_rest(part, good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    put(config, "loss.main" if part == "loss" else part, make(marker))
    refused("evaluate", written(good[0], config, tmp_path / "evil", False), good, tmp_path / "out", marker)


@pytest.mark.parametrize("exported", [False, True], ids=["checkpoint", "export"])
@pytest.mark.parametrize("attack", INTERPOLATIONS)
def test_nothing_is_resolved(attack, exported, good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    interpolated(config, attack, marker)
    path = written(good[0], config, tmp_path / "evil", exported)
    for entry in OF_EXPORTS if exported else ENTRIES:
        assert INTERPOLATIONS[attack][0].split("[")[0] in refused(entry, path, good, tmp_path / "out", marker)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("place", ["extra", "state_dict", "seglab"])
def test_nothing_is_unpickled(place, entry, good, marker, tmp_path):
    content = copy.deepcopy(good[0])
    node = content if place == "extra" else content[place]
    node["payload"] = Payload(str(marker))
    torch.save(content, tmp_path / "evil.ckpt")
    assert "mkdir" in refused(entry, tmp_path / "evil.ckpt", good, tmp_path / "out", marker)
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert marker.exists(), "the payload was live"


@pytest.mark.parametrize("entry", ENTRIES)
def test_lightning_is_asked_to_build_nothing(entry, good, marker, tmp_path):
    asked = {"_instantiator": "os.mkdir", "path": str(marker)}
    torch.save({**good[0], "hyper_parameters": asked}, tmp_path / "evil.ckpt")
    assert "_instantiator" in refused(entry, tmp_path / "evil.ckpt", good, tmp_path / "out", marker)


@pytest.mark.parametrize("entry", OF_EXPORTS)
def test_what_stands_in_the_metadata_of_safetensors_is_read_by_nobody(entry, good, marker, tmp_path):
    path = written(good[0], good[0]["seglab"]["config"], tmp_path / "odd", True)
    tensors = {name: value.contiguous() for name, value in checkpoint.network_tensors(good[0]).items()}
    told = {"config": json.dumps(make(marker)), "seglab": f"${{oc.env:{SECRET}}}", "format": "pickle"}
    save_file(tensors, path / "model.safetensors", metadata=told)
    ENTRIES[entry](path, good, tmp_path / "out")
    assert not marker.exists()


@pytest.mark.parametrize("key", ["resume", "init_from"])
def test_training_opens_files_through_the_same_entries(key, good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    interpolated(config, "resolver that builds", marker)
    path = written(good[0], config, tmp_path / "evil", False)
    with pytest.raises(CheckpointError, match=r"classifier\.tau"):
        fit({**good[1], key: str(path)}, tmp_path / "run")
    assert not marker.exists()
    assert json.loads((tmp_path / "run/status.json").read_text())["exit_code"] == 2


def test_with_trust_the_configuration_is_still_data(good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    interpolated(config, "resolver that builds", marker)
    with pytest.raises(CheckpointError):
        seglab.load(written(good[0], config, tmp_path / "evil", False), trust=True)
    assert not marker.exists()


# A sweep's folder, with runs of strangers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return structure(tmp_path_factory.mktemp("runs") / "sweep")


@pytest.fixture
def folder(runs, tmp_path):
    """A sweep with one run whose ``config.yaml`` a test changes."""
    shutil.copytree(runs, tmp_path / "sweep")
    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    for job in jobs[1:]:
        shutil.rmtree(job)
    return tmp_path / "sweep", jobs[0] / "config.yaml"


def collected(folder, *flags):
    sweep.summarise(sweep.arguments().parse_args([str(folder), "--no-plots", "--no-report", *flags]))


TAGS = ["!!python/object/apply:os.mkdir ['{marker}']", "!!python/object/new:os.mkdir ['{marker}']",
        "!!python/name:os.mkdir", "!!python/module:os"]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_sweeps_yaml_builds_nothing(tag, folder, marker):
    folder, config = folder
    config.write_text(config.read_text() + f"\nevil: {tag.format(marker=marker)}\n")
    with pytest.raises(UserError, match=r"config\.yaml") as error:
        collected(folder)
    assert error.value.exit_code == 2
    assert not marker.exists()


@pytest.mark.parametrize("attack", INTERPOLATIONS)
def test_nothing_in_a_sweeps_yaml_is_resolved(attack, folder, good, marker):
    folder, file = folder
    config = copy.deepcopy(good[0]["seglab"]["config"])
    interpolated(config, attack, marker)
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"config\.yaml: ") as error:
        collected(folder)
    assert error.value.exit_code == 2
    assert not marker.exists()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("attack", [attack for attack in TARGETS if not attack.startswith("arguments")])
def test_a_sweeps_table_needs_no_network_and_builds_no_other(attack, folder, good, marker, capsys):
    folder, file = folder
    key, payload = TARGETS[attack]
    config = copy.deepcopy(good[0]["seglab"]["config"])
    put(config, key, payload(marker))
    file.write_text(yaml.safe_dump(config))
    collected(folder)
    assert "cost not measured" in " ".join(capsys.readouterr().out.split())
    assert not marker.exists()


# Every file of ours that is opened, is opened where this holds


def test_torch_load_yaml_and_pickle_are_called_in_their_rooms_only():
    sources = {path: path.read_text() for path in (Path(seglab.__file__).parent).rglob("*.py")}
    rooms = {
        "torch.load(": {"weightfile.py"},
        "pickle.load": set(),
        "yaml.load(": {"files.py"},
        "yaml.unsafe_load": set(),
        "hydra.utils.instantiate(": {"build.py"},
        "load_from_checkpoint(": set(),
        "eval(annotation": {"checks.py"},
    }
    for call, rooms_of in rooms.items():
        found = {path.name for path, text in sources.items() if call in text}
        assert found == rooms_of, call
    for path, text in sources.items():
        assert text.count("torch.load(") == text.count("weights_only=True") if "torch.load(" in text else True, path


def test_a_network_that_a_training_term_would_open_is_left_out_unread(good, marker, tmp_path):
    config = copy.deepcopy(good[0]["seglab"]["config"])
    opens = {"_target_": "os.mkdir", "_partial_": True, "path": str(marker)}
    config["loss"]["teacher"] = {"_target_": "seglab.losses.TeacherDistillation", "network": opens}
    path = written(good[0], config, tmp_path / "evil", False)
    for entry in ("load", "export", "evaluate"):
        ENTRIES[entry](path, good, tmp_path / entry)
    assert not marker.exists()

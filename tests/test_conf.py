"""Every option of every group composes, builds and runs: a new YAML is a new test."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from seglab import build, checkpoint, cli, evaluate, visualize
from seglab.data.spec import DatasetSpec
from seglab.hierarchy import plan as hierarchy
from seglab.hs3 import FINAL, planned
from seglab.multirun import plan
from seglab.train import fit
from seglab.types import Batch
from tests.conftest import CLASSIFIED, PAIRED, SMALL_NET, TINY, each, network

ROOT = cli.conf_dir()
OPTIONS = sorted(
    (path.parent.relative_to(ROOT).as_posix(), path.stem)
    for path in ROOT.rglob("*.yaml")
    if path.parent not in (ROOT, ROOT / "base")  # roots, and what several files share: nothing to choose
)
ELSEWHERE = {"backbone", "ablation", "data", "launcher", "search", "hydra/sweeper"}
"""Groups whose options are not simply trained with. Backbones and ablations have walks below, data sets one in tests/data
on their miniatures; launchers, searches and sweepers start jobs and have tests in tests/multirun."""
SEVERAL_PROCESSES = {("trainer", "ddp"), ("trainer", "fsdp")}
"""Leave a port in the environment, and are what test_train.py starts processes for."""


def listed(root: Path, overrides: bool = True) -> set[str]:
    """The groups in a file's defaults list."""
    entries = [entry for entry in yaml.safe_load(root.read_text()).get("defaults", []) if isinstance(entry, dict)]
    keys = [key for entry in entries for key in entry if overrides or not key.startswith("override ")]
    return {key.removeprefix("override ").lstrip("/").split("@")[0] for key in keys}


ROOTS = {path.stem: listed(path) for path in ROOT.glob("*.yaml")}


OF_TASK = {group: path.stem for path in (ROOT / "task").glob("*.yaml") for group in listed(path, overrides=False)}
"""Groups that a task brings, by the task."""


def root_of(group: str) -> str:
    """The command that a group belongs to: training, if no other command lists it."""
    return next((root for root in ("train", *ROOTS) if group in ROOTS[root]), "train")


def choice(group: str, option: str) -> str:
    """The override that chooses an option; one of a group that no command lists is added."""
    return f"{'' if group in OF_TASK or group in ROOTS[root_of(group)] else '+'}{group}={option}"


def of(group: str) -> list[str]:
    return [option for g, option in OPTIONS if g == group]


def test_every_group_that_is_walked_elsewhere_is_there():
    assert {group for group, _ in OPTIONS} >= ELSEWHERE


TRAINED = [o for o in OPTIONS if o[0] not in ELSEWHERE and root_of(o[0]) == "train" and o not in SEVERAL_PROCESSES]
"""The options that are trained with, below."""


@lru_cache
def joined(group: str) -> set[str]:
    """The options that another one of the group joins, so that what runs with it runs with them."""
    nodes = [yaml.safe_load((ROOT / group / f"{name}.yaml").read_text()) or {} for name in of(group)]
    parts = [{each for each in node.get("defaults", []) if each in of(group)} for node in nodes]
    return set().union(*(each for each in parts if len(each) > 1))


def later(group: str, option: str) -> list[pytest.MarkDecorator]:
    """``slow`` for an option that another one joins with its like, and for an experiment, all parts of which are walked."""
    return [pytest.mark.slow] if option in joined(group) or group == "experiment" else []


COMPOSED = [o for o in OPTIONS if later(*o) or (o not in TRAINED and o[0] not in ("backbone", "ablation"))]
"""Those that no walk of this file uses, or only with ``-m slow``."""


def ablations(command: str) -> list[str]:
    """Those of a command."""
    written = {option: yaml.safe_load((ROOT / "ablation" / f"{option}.yaml").read_text()) for option in of("ablation")}
    return [option for option, node in written.items() if node["sweep"].get("command", "train") == command]


@pytest.mark.parametrize(("group", "option"), COMPOSED, ids=lambda x: x)
def test_every_other_option_composes(group, option):
    cli.register_resolvers()
    root = root_of(group)
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        made = hydra.compose(root, [choice(group, option), *(["run_dir=."] if root == "train" else [])])
    OmegaConf.to_container(made, resolve=True)


@lru_cache
def evaluation() -> dict[str, Any]:
    """The options of ``seglab.evaluate``, without a checkpoint."""
    return cli.compose("evaluate", ["ckpt=none", "output=none", "trainer.accelerator=cpu", "images=0"])


def missing(nodes: Mapping[str, Any]) -> list[str]:
    """The keys of nodes that have to be given: files of trained networks and of plans."""

    def walk(node: Any, key: str) -> Iterator[str]:
        for name, child in node.items():
            place = f"{key}.{name}".lstrip(".")
            yield from walk(child, place) if isinstance(child, dict) else [place] if child == "???" else []

    return list(walk(nodes, ""))


VIDEOS = ["data=scenes_video", "data.dataset.frames={train: 1, val: 2, test: 2}"]
"""The embedded scenes as videos of two frames."""

Given = Callable[[Mapping[str, Any]], list[str]]
"""The overrides that give these keys their values."""


def fits(cfg: dict) -> bool:
    """Whether the data of a task have what its metrics compare with."""
    kind = build.task_class(cfg)
    compared = kind.NEEDS if kind.COMPARED is None else kind.COMPARED
    metrics = [pkgutil.resolve_name(node["_target_"]) for node in cfg["metrics"].values() if node]
    return all(metric.needs <= compared for metric in metrics)


def own_task(group: str, option: str) -> str | None:
    """The task that a file chooses for itself."""
    defaults = (yaml.safe_load((ROOT / group / f"{option}.yaml").read_text()) or {}).get("defaults", [])
    return next((each["override /task"] for each in defaults if "override /task" in each), None)


def composed(group: str, option: str, compose, cifar10: Path, given: Given) -> dict:
    """A training with an option, of the first task that its parts are for, as small as it can be."""
    own = option if group == "task" else own_task(group, option) or OF_TASK.get(group)
    for task in [own] if own else sorted(of("task"), key=lambda task: task != "semantic"):
        chosen = [choice(group, option), "trainer.devices=1"]
        kind = build.task_class(compose("train", [f"task={task}"]))
        if "backbone" not in kind.PARTS:
            chosen += PAIRED
        elif "category" in kind.NEEDS:
            chosen += [*CLASSIFIED, f"data.root={cifar10}"]
        else:
            chosen += [*TINY, SMALL_NET[0]]
        chosen.append("trainer.val_check_interval=2")  # once, after the last step
        if own is None or group in OF_TASK:
            chosen.append(f"task={task}")
        if group == "debug":  # it says itself how little is trained
            chosen = [c for c in chosen if "trainer.max" not in c and "val_check" not in c]
        if group == "experiment":  # on a small network and one process, with everything else as published
            chosen += [
                *([] if "category" in kind.NEEDS else ["data=scenes"]),
                "backbone=resnet18",
                "backbone.name=test_resnet.r160_in1k",
                "backbone.pretrained=false",
                "trainer=default",
                "trainer.precision=32-true",
            ]
        cfg = compose("train", [*chosen, *given(yaml.safe_load((ROOT / group / f"{option}.yaml").read_text()) or {})])
        if fits(cfg) and build.compares_frames(cfg):
            cfg = compose("train", [*chosen, *VIDEOS])
        if "width" in cfg.get("decoder", ()):
            cfg["decoder"]["width"] = 16
        if fits(cfg):
            return cfg
    raise AssertionError(f"no task goes with {group}={option}")


def a_plan(classes: tuple[str, ...]) -> hierarchy.Plan:
    """A plan of three layers that take classes for their neighbours, of which every angle chooses other clusters."""
    place = np.arange(len(classes))
    near = [(place[:, None] // n == place // n).astype(int) for n in (1, 2, 4, len(classes))]
    shares = {
        "backbone.1": (20, 20, 20, 1),
        "backbone.2": (50, 30, 12, 1),
        "backbone.3": (70, 9, 7, 1),
        FINAL: (50, 20, 5, 1),
    }
    noise = np.random.default_rng(0).integers(0, 3, (len(classes), len(classes)))
    matrices = {
        name: sum(n * each for n, each in zip(parts, near, strict=True)) + noise for name, parts in shares.items()
    }
    return planned(matrices, classes, 0.0, "coarsest", {})


@pytest.fixture(scope="module")
def given(trained_once) -> Given:
    """What the nodes of an option leave open: trained networks, and a plan for the layers of one."""
    folder = trained_once("semantic")
    if not (folder / hierarchy.FILE).exists():
        hierarchy.write(a_plan(checkpoint.describe(folder).spec.classes), folder / hierarchy.FILE, "0")

    def run(key: str, nodes: Mapping[str, Any]) -> Path:
        if not key.startswith("loss."):
            return folder
        return trained_once(pkgutil.resolve_name(nodes["loss"][key.split(".")[1]]["_target_"]).learns_from)

    return lambda nodes: [f"{key}={run(key, nodes)}" for key in missing(nodes)]


done: set[str] = set()
"""Configurations that were trained with: that of the default options is one and the same."""


WALKED = [pytest.param(*option, marks=later(*option), id="-".join(option)) for option in TRAINED]


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """No figure of the confusion matrix: it takes a fifth of such a run, and tests/test_visualize.py draws it."""
    monkeypatch.setattr(visualize, "confusion_figure", lambda *given: np.zeros((8, 8, 3), np.uint8))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("group", "option"), WALKED)
def test_every_option_trains_and_is_saved_with_what_it_scored(group, option, compose, cifar10, given, tmp_path):
    cfg = composed(group, option, compose, cifar10, given)
    if "wandb" in (cfg["logger"] or {}):
        cfg["logger"]["wandb"]["mode"] = "offline"
    if (same := json.dumps(cfg, sort_keys=True).replace(str(tmp_path), "")) in done:
        return
    fit(cfg, tmp_path / "run")

    ckpt = tmp_path / "run/checkpoints/last.ckpt"
    trained, _ = checkpoint.open_file(ckpt)
    start = build.build_training(cfg, build.build_data(cfg, build.task_class(cfg).NEEDS).spec).task.model
    parts = {name.split(".")[0] for name, p in start.named_parameters() if p.requires_grad}
    change = {name: (p - trained[name]).abs().max() for name, p in start.named_parameters()}
    moved = {name.split(".")[0] for name, most in change.items() if most > 1e-9}
    own = dict(start.named_children())
    assert {part for part in build.task_class(cfg).PARTS if part in own and list(own[part].parameters())} <= parts
    assert moved == parts, "every part learns"

    limit = {"limit_test_batches": cfg["trainer"].get("limit_test_batches")}
    options = {**evaluation(), "ckpt": str(ckpt), "output": str(tmp_path / "evaluated")}
    evaluate.score({**options, "trainer": {**options["trainer"], **limit}})
    first, again = (json.loads((tmp_path / f"{name}/metrics.json").read_text()) for name in ("run", "evaluated"))
    scores = {key: first[key] for key in first.keys() & again if key.startswith("test/")}
    assert {key for key, value in scores.items() if isinstance(value, float)} > {"test/loss"}
    for key, value in scores.items():
        exact = isinstance(value, list | dict | str)
        assert again[key] == (value if exact else pytest.approx(value, rel=1e-5)), key
    done.add(same)


LARGE = {"swin_base", "swin_large", "resnet101_d8", "resnet101s_d8"}


@pytest.mark.parametrize("option", each(of("backbone"), *set(of("backbone")) - LARGE))
def test_every_backbone_meets_a_decoder_and_a_classifier(option, compose):
    cfg = compose("train", [f"backbone={option}", "backbone.pretrained=false", "decoder.width=16", "classifier=cac"])
    model = network(cfg, 3)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = model.eval()(image).logits
    assert logits.shape[:2] == (1, 3)
    assert logits.isfinite().all()


PAIRS = [
    pytest.param(decoder, option, marks=[] if decoder == "fpn" or option in ("linear", "ssa") else pytest.mark.slow)
    for decoder in of("decoder")
    for option in of("classifier")
]
"""Every decoder with two classifiers, every classifier with one decoder; the others with ``-m slow``."""


@pytest.mark.parametrize(("decoder", "option"), PAIRS)
def test_any_classifier_meets_any_decoder_and_every_trained_parameter_gets_a_gradient(option, decoder, compose):
    cfg = compose("train", [f"classifier={option}", f"decoder={decoder}", "heads=fcn", *TINY, SMALL_NET[0]])
    if "width" in cfg["decoder"]:
        cfg["decoder"]["width"] = 16
    data = build.build_data(cfg)
    module = build.build_training(cfg, data.spec, probe=data.probe()).task
    K = module.spec.num_classes
    label = torch.randint(K, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = Batch(image=torch.randn(2, 3, 64, 64), label=label, names=("a", "b"))
    losses = module.losses(batch, 0)
    losses.total.backward()
    without = [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert losses.total.isfinite()


@lru_cache
def given_data(nodes: str) -> tuple[DatasetSpec, Batch]:
    """The classes and the first items of data that rows of ablations share."""
    data = build.build_data(json.loads(nodes))
    return data.spec, data.probe()


def ends(values: Mapping[str, Any], baseline: Any) -> dict[str, Any]:
    """The first and the last of what a key is varied over, and the baseline's: to compose a row costs a training step."""
    plain = list(values.items())
    return dict(plain[:1] + [pair for pair in plain[1:-1] if pair[1] == baseline] + plain[-1:])


@pytest.mark.parametrize("option", ablations("evaluate"))
def test_the_rows_of_every_ablation_of_trained_networks_compose_and_no_two_are_the_same(option, tmp_path):
    network = str(tmp_path / "net.ckpt")
    Path(network).touch()
    file = yaml.safe_load((ROOT / "ablation" / f"{option}.yaml").read_text())
    wanted = [f"{key}={network}" for key in missing(file)]
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        cfg = hydra.compose("evaluate", [f"ablation={option}"], return_hydra_config=True)
        assert cfg.hydra.mode.name == "MULTIRUN"
        about = OmegaConf.to_container(cfg.sweep)
        axes = plan.axes({}, [f"ablation={option}", f"ckpt={network}", "seed=0", *wanted])
        found = plan.jobs(axes, about["variants"], lambda overrides: hydra.compose("evaluate", overrides), "evaluate")
    assert len({plan.fingerprint(job.config) for job in found}) == len(found) > 1
    assert about["title"]
    assert any(about["baseline"].items() <= job.factors.items() for job in found)
    for job in found:
        node = job.config["predictor"]
        assert (node["refine"] is None) == (build.build_refinement(node) is None)


@pytest.mark.parametrize("rows", each(["first and last", "all"], "first and last"))
@pytest.mark.parametrize("option", ablations("train"))
def test_the_rows_of_every_ablation_train_and_no_two_are_the_same(option, rows, given):
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        cfg = hydra.compose("train", [f"ablation={option}"], return_hydra_config=True)
        assert cfg.hydra.mode.name == "MULTIRUN"
        params, about = dict(cfg.hydra.sweeper.params), OmegaConf.to_container(cfg.sweep)
        nodes = {name: cfg.get(name) or {} for name in ("loss", "regularizer")}
    files = given({name: OmegaConf.to_container(OmegaConf.create(node)) for name, node in nodes.items()})
    assert "," in params["seed"]
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        axes = plan.axes(params, ["seed=0", f"ablation={option}", *TINY, SMALL_NET[0], *files])
        every = {
            **({plan.VARIANT: {name: name for name in about["variants"]}} if about["variants"] else {}),
            **axes.varied,
        }
        kept = (
            every if rows == "all" else {key: ends(values, about["baseline"].get(key)) for key, values in every.items()}
        )
        found = plan.jobs(
            replace(axes, varied={key: kept[key] for key in axes.varied}),
            {name: about["variants"][name] for name in kept.get(plan.VARIANT, ())},
            lambda overrides: hydra.compose("train", overrides),
        )
    assert len({plan.fingerprint(job.config) for job in found}) == len(found) > 1
    assert about["title"]
    rows = [{key: value for key, value in job.factors.items() if key != "seed"} for job in found]
    # One row, or one for each choice of what it does not name.
    assert any(about["baseline"].items() <= row.items() for row in rows)
    if about["published"]:
        first = {str(value) for value in next(values for key, values in every.items() if key != "seed").values()}
        assert {str(name) for name in about["published"]["values"]} <= first
        assert about["published"]["source"]
    for job in found if rows == "all" else (found[0], found[-1]):
        if "width" in job.config["decoder"]:
            job.config["decoder"]["width"] = 16
        spec, probe = given_data(json.dumps({key: job.config[key] for key in ("data", "augment", "normalize", "seed")}))
        module = build.build_training(job.config, spec, probe=probe).task
        label = torch.randint(module.spec.num_classes, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        batch = Batch(image=torch.randn(2, 3, 64, 64), label=label, names=("a", "b"))
        losses = module.losses(batch if probe.clip is None else probe, 0)
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

"""Branches on request: decoder and heads add what somebody reads, and only what is deployed is exported."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

import seglab
from seglab import build, checkpoint, evaluate
from seglab.cli import compose as composed
from seglab.decoders.base import Decoded
from seglab.decoders.fpn import FPN
from seglab.errors import ConfigError
from seglab.heads import Head
from seglab.train import fit
from seglab.types import IGNORE, Batch
from tests.conftest import SMALL_NET, TINY, each, options, tiny

IMAGE = torch.randn(2, 3, 64, 64)


class Doubling(Head):
    """Publishes two branches, and counts its calls."""

    calls = 0

    def __init__(self, channels, strides, outputs, source="feature"):
        super().__init__(channels, strides, outputs)
        self.source = source
        self.reads = {source} - {"feature"}
        self.convs = nn.ModuleDict(
            {key.rpartition(".")[2]: nn.Conv2d(channels[source], n, 1) for key, n in outputs.items()}
        )

    def forward(self, features, output):
        Doubling.calls += 1
        return {key: conv(features[self.source]) for key, conv in self.convs.items()}


class Talkative(FPN):
    """A decoder with a branch of its own, and a part that nothing ever reaches."""

    def __init__(self, channels, strides, num_classes, **options):
        super().__init__(channels, strides, num_classes, **options)
        self.branches = {"coarse_logits": (num_classes, self.strides[-1])}
        self.coarse = nn.Conv2d(self.channels[-1], num_classes, 1)
        self.idle = nn.Conv2d(4, 4, 1)

    def forward(self, maps, wanted=frozenset(), size=None):
        extra = {"coarse_logits": self.coarse(maps[-1])} if "coarse_logits" in wanted else {}
        return Decoded(feature=super().forward(maps).feature, extra=extra)


def term(branch: str) -> str:
    return f"+loss.{branch.replace('.', '_')}={{_target_: seglab.losses.CrossEntropy, branch: {branch}}}"


TWO = [
    f"+heads.two={{_target_: {__name__}.Doubling, _partial_: true, source: coarse_logits}}", term("two.a"), term("two.b"),
]  # fmt: skip
TALKATIVE = [f"decoder._target_={__name__}.Talkative"]


def module(compose, *overrides, probe=True):
    cfg = compose("train", [*TINY, *SMALL_NET, *overrides])
    data = build.build_data(cfg)
    return build.build_training(cfg, data.spec, probe=data.probe() if probe else None).task


def trained(made) -> set[str]:
    return {name for name, p in made.model.named_parameters() if p.requires_grad}


def test_a_decoders_branch_an_auxiliary_head_and_a_head_of_two_branches_go_together(compose):
    made = module(compose, "heads=fcn", *TALKATIVE, term("coarse_logits"), *TWO)
    assert made.wanted == {"logits", "aux", "coarse_logits", "two.a", "two.b"}
    output = made.model(IMAGE, wanted=made.wanted)
    assert output.extra.keys() == made.wanted - {"logits"}
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    losses = made.criterion(output, Batch(image=IMAGE, label=label, names=("a", "b")))
    assert losses.parts.keys() == {"main", "aux", "coarse_logits", "two_a", "two_b"}


def test_a_head_reads_a_decoders_branch_that_no_term_reads(compose):
    made = module(compose, *TALKATIVE, *TWO)
    assert made.model(IMAGE, wanted=made.wanted).extra.keys() == {"two.a", "two.b"}


def test_what_nobody_wants_is_not_computed(compose):
    made = module(compose, *TALKATIVE, term("coarse_logits"), *TWO)
    Doubling.calls = 0
    assert made.model(IMAGE).extra == {}
    assert Doubling.calls == 0
    assert made.model(IMAGE, wanted=frozenset({"feature"})).extra.keys() == {"feature"}


def test_a_head_is_built_iff_an_active_term_reads_a_branch_of_it(compose):
    off = module(compose, *TALKATIVE, *TWO, "+loss.two_a.weight=0")
    assert off.model.heads["two"].outputs.keys() == {"two.b"}
    none = module(compose, *TALKATIVE, *TWO, "+loss.two_a.weight=0", "+loss.two_b.weight=0")
    assert not none.model.heads


def test_a_name_that_is_published_twice_is_refused(compose):
    head = f"+heads.coarse_logits={{_target_: {__name__}.Doubling, _partial_: true}}"
    with pytest.raises(ConfigError, match=r"'coarse_logits' is published twice"):
        module(compose, *TALKATIVE, head, term("coarse_logits"))


def test_a_branch_that_no_part_publishes_is_refused_with_those_that_are(compose):
    with pytest.raises(ConfigError, match=r"loss\.two_a .*'two\.a'.*one of .*feature, logits"):
        module(compose, term("two.a"))


def test_idle_parts_of_any_room_are_frozen_and_nothing_else(compose):
    made = module(compose, "heads=fcn", *TALKATIVE, probe=True)
    every = {name for name, _ in made.model.named_parameters()}
    assert every - trained(made) == {
        f"decoder.{part}.{kind}" for part in ("coarse", "idle") for kind in ("weight", "bias")
    }


def test_the_probe_changes_neither_buffers_nor_random_numbers_nor_gradients(compose):
    made = module(compose, "heads=fcn", "classifier=ssa", probe=False)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.model.train()
    torch.manual_seed(3)
    build.freeze_unreached(made, Batch(image=IMAGE, label=torch.zeros(2, 64, 64, dtype=torch.int64), names=("", "")))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert made.model.training
    assert all(p.grad is None for p in made.model.parameters())


@pytest.mark.parametrize("classifier", each(options("classifier"), "linear", "cac", "ssa"))
def test_what_is_trained_does_not_depend_on_the_labels_of_the_probe(classifier, compose):
    found = []
    for label in (
        torch.full((2, 64, 64), IGNORE),
        torch.zeros(2, 64, 64, dtype=torch.int64),
        torch.randint(12, (2, 64, 64)),
    ):
        made = module(compose, "heads=fcn", f"classifier={classifier}", probe=False)
        build.freeze_unreached(made, Batch(image=IMAGE, label=label, names=("", "")))
        found.append(trained(made))
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headed") / "run"
    results = fit(tiny(folder, "heads=fcn", "trainer.max_steps=2", "trainer.val_check_interval=2"), folder)
    return folder, results


def test_heads_are_stored_and_never_deployed(run, tmp_path):
    folder, _ = run
    stored, _ = checkpoint.open_file(folder)
    assert any(name.startswith("heads.aux.") for name in stored)
    loaded = seglab.load(folder)
    assert not loaded.model.heads
    assert seglab.load(folder, heads=True).model.heads.keys() == {"aux"}
    exported = checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    tensors, description = checkpoint.open_file(exported)
    assert tensors.keys() == {name for name in stored if not name.startswith("heads.")}
    assert description.checksum == checkpoint.describe(folder).checksum


def test_evaluating_a_checkpoint_gives_the_heads_loss_and_an_export_all_but_that(run, tmp_path):
    folder, results = run
    loaded = seglab.load(folder)
    checkpoint.export_safetensors(loaded.model, loaded.description, tmp_path / "export")
    found = {}
    for path in (folder, tmp_path / "export"):
        options = composed(
            "evaluate", [f"ckpt={path}", f"output={tmp_path / 'out'}", "trust=true", "images=0", "split=val"]
        )
        evaluate.score(options)
        found[path] = checkpoint.atomic.read_json(tmp_path / "out/metrics.json")
    whole, export = found.values()
    assert {"val/main", "val/aux"} <= whole.keys()
    assert "val/main" in export
    assert "val/aux" not in export
    assert whole["val/mIoU"] == export["val/mIoU"] == pytest.approx(results["val/mIoU"], abs=1e-6)


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_of_an_earlier_format_is_resumed_evaluated_and_loaded_under_the_new_names(run, tmp_path, number):
    folder, _ = run
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    record = content["seglab"]
    config = dict(record["config"])
    head, statistics = dict(config["heads"]["aux"]), dict(config.pop("normalize"))
    # Before format 3 the network was the training module's own, and its normalisation the augmentation's.
    config["task"] = {**config["task"], "_target_": "seglab.module.SegmentationModule"}
    config["augment"] = {**config["augment"], "mean": statistics["mean"], "std": statistics["std"]}
    state = {name.removeprefix("task."): value for name, value in content["state_dict"].items()}
    sums = {**record["checksum"], "training": "0" * 64}  # over other names than those of today
    if number == 1:  # one auxiliary head, a node of its own
        del config["heads"]
        config["auxiliary"] = {**head, "_target_": "seglab.decoders.AuxiliaryFCN"}
        config["loss"] = {**config["loss"], "aux": {**config["loss"]["aux"], "branch": "auxiliary"}}
        sums["network"] = "0" * 64  # counted the head among the network
        state = {k.replace("heads.aux.", "auxiliary."): v for k, v in state.items()}
    described = {name: record[name] for name in ("version", "spec")}
    old = {**content, "state_dict": state}
    old["seglab"] = {**described, "format": number, "config": config, "checksum": sums}
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    torch.save(old, tmp_path / "run/checkpoints/last.ckpt")
    tensors, described = checkpoint.open_file(tmp_path / "run/checkpoints/last.ckpt")
    assert tensors.keys() == checkpoint.open_file(folder / "checkpoints/last.ckpt")[0].keys()
    assert described.config["heads"] == {"aux": head}
    assert torch.equal(
        seglab.load(tmp_path / "run")(IMAGE).logits, seglab.load(folder / "checkpoints/last.ckpt")(IMAGE).logits
    )
    longer = ["heads=fcn", "trainer.max_steps=3", "trainer.val_check_interval=2", "resume=auto"]
    assert fit(tiny(tmp_path / "run", *longer), tmp_path / "run")["test/mIoU"] is not None
    assert checkpoint.describe(tmp_path / "run/checkpoints/last.ckpt").step == 3


class Sized(FPN):
    """A decoder that remembers at which sizes it was asked."""

    asked: ClassVar[list] = []

    def forward(self, maps, wanted=frozenset(), size=None):
        self.asked.append(size)
        return super().forward(maps, wanted, size)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ([], (90, 120)),  # the label's
        (["evaluation.flip=true"], (90, 120)),
        (["evaluation.long_short=[80,60]"], (90, 120)),
        (["evaluation.long_short=[80,60]", "evaluation.through_view=true"], (60, 60)),
        (["evaluation.divisor=32", "evaluation.divisor_mode=pad"], (64, 64)),
        (["evaluation.mode=slide", "evaluation.window=[40,48]", "evaluation.stride=[24,16]"], (40, 48)),
    ],
)
def test_a_decoder_is_asked_at_the_size_that_its_logits_are_resized_to_next(compose, protocol, expected):
    made = module(compose, f"decoder._target_={__name__}.Sized", *protocol, probe=False).eval()
    Sized.asked.clear()
    batch = Batch(image=IMAGE, names=("a", "b"), label=torch.zeros(2, 90, 120, dtype=torch.int64))
    with torch.no_grad():
        made.score(batch, frozenset())
    assert Sized.asked[0] == expected
    made.losses(batch, 0)
    assert Sized.asked[-1] == (90, 120)

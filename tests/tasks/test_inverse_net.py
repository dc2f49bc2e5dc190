"""Training of the inverse-transformation network, from label maps to its file in a loss term."""

from __future__ import annotations

import json

import pytest
import torch

import seglab
from seglab import build, checkpoint, cli, evaluate, loading
from seglab.errors import ConfigError
from seglab.metrics import TransformationFit
from seglab.metrics.transformation import SHIFTS
from seglab.models.inverse_net import Transformations
from seglab.ops.boundaries import boundary_map
from seglab.tasks.pairs import Pairs, warped
from seglab.train import fit
from seglab.types import Batch, Evaluated, Output
from tests.conftest import PAIRED, composed_once, in_folder

CLEAN = {"contrast": 1.0, "blur": 0.0, "thickness": 0.0, "noise": 0.0, "gaps": 0.0}


def config(folder, *overrides):
    return in_folder(composed_once(("task=inverse_net", *PAIRED, *overrides)), folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    cfg = config(tmp_path_factory.mktemp("task"))
    data = build.build_data(cfg)
    return build.build_training(cfg, data.spec, probe=data.probe()).task


@pytest.fixture
def batch():
    coarse = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(image=torch.zeros(2, 3, 64, 64, dtype=torch.uint8), label=label, names=("a", "b"))


# Pairs


def window(side: int = 48) -> torch.Tensor:
    """A boundary map with one bright pixel."""
    found = torch.zeros(1, 1, side, side)
    found[0, 0, 20, 26] = 1
    return found


@pytest.mark.parametrize("side", [48, 47])
def test_the_identity_is_the_middle_of_the_window(side):
    boundaries = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    start = (side - 32) // 2
    same = warped(boundaries, torch.eye(3)[None], 32)
    torch.testing.assert_close(same, boundaries[..., start : start + 32, start : start + 32], atol=1e-4, rtol=0)


def test_a_point_of_the_warped_tile_shows_where_theta_leads():
    shift = Transformations(4).matrix(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    shift[0, 0, 2] = 2 * 3 / 32  # three pixels to the right
    moved = warped(window(), shift, 32)[0, 0]
    torch.testing.assert_close(moved[20 - 8, 26 - 8 - 3], torch.tensor(1.0), atol=1e-4, rtol=0)


def test_without_degradation_an_unwarped_pair_is_two_equal_tiles(batch):
    pairs = Pairs(**CLEAN)
    draw = pairs.draw(4, 4, 32)._replace(vector=torch.zeros(4, 4))
    windows = pairs.windows(batch.label, 32, 2)
    tiles = pairs.make(windows, draw, Transformations(), 32)
    assert tiles.shape == (4, 2, 32, 32)
    torch.testing.assert_close(tiles[:, 0], tiles[:, 1], atol=1e-4, rtol=0)
    whole = boundary_map(windows, frame=False).float()
    assert torch.equal(tiles[:, 1], whole[:, 8:40, 8:40])


def test_no_border_of_a_window_enters_a_tile():
    pairs = Pairs(**CLEAN)
    tiles = pairs.make(torch.ones(8, 48, 48, dtype=torch.int64), pairs.draw(8, 8, 32), Transformations(8), 32)
    assert not tiles.any()


def test_a_degraded_tile_stays_within_0_and_1_and_differs():
    pairs = Pairs()
    tiles = pairs.make(torch.randint(0, 2, (16, 12, 12)).repeat_interleave(4, 1).repeat_interleave(4, 2),
                       pairs.draw(16, 4, 32), Transformations(), 32)  # fmt: skip
    assert tiles.amin() >= 0
    assert tiles.amax() <= 1
    assert (tiles[:, 0] != tiles[:, 1]).flatten(1).any(1).all()


def test_draws_hold_the_shares_and_ranges_that_they_are_told():
    pairs = Pairs(identity=0.3, near=0.5, near_range=0.25)
    draw = pairs.draw(4000, 4, 8, torch.Generator().manual_seed(0))
    length = draw.vector.abs().amax(1)
    assert (length == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert length.amax() <= 1
    near = ((length > 0) & (length <= 0.25)).float().mean() / (length > 0).float().mean()
    assert near == pytest.approx(0.5, abs=0.05)
    assert set(draw.thickness.unique().tolist()) == {-1, 0, 1}
    assert 0.5 <= draw.contrast.amin() < draw.contrast.amax() <= 1


def test_label_maps_that_hold_no_window_are_refused(batch):
    with pytest.raises(ConfigError, match=r"64x64.*window of 96x96.*augment\.crop=\[96,96\]"):
        Pairs().windows(batch.label, 64, 1)


@pytest.mark.parametrize("wrong", [{"identity": 1.5}, {"blur": -1.0}, {"window": 0.5}, {"radius": 0}])
def test_options_of_pairs_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"task\\.pairs\\.{next(iter(wrong))}"):
        Pairs(**wrong)


# The task


def test_training_draws_anew_and_an_evaluation_repeats_its_pairs_whatever_the_batch(task, batch):
    task.eval()
    with torch.no_grad():
        first, second = (task.output(batch).truth for _ in range(2))
        assert not torch.equal(first, second)
        once, again = (task.score(batch, frozenset()) for _ in range(2))
        assert torch.equal(once.batch.image, again.batch.image)
        alone = Batch(image=batch.image[1:], label=batch.label[1:], names=batch.names[1:])
        half = len(once.scores) // 2
        assert torch.equal(task.score(alone, frozenset()).batch.image, once.batch.image[half:])


def test_an_evaluation_has_a_warped_pair_and_every_shift_of_each_window(task, batch):
    with torch.no_grad():
        seen = task.score(batch, frozenset())
    group, truth = seen.output.read("group"), seen.output.truth
    assert len(group) == 2 * task.windows * (1 + len(SHIFTS))
    for place, pixels in enumerate(SHIFTS):
        moved = truth[group == place]
        in_pixels = moved.abs().sum(1) * 0.15 * task.model.tile / 2
        torch.testing.assert_close(in_pixels, torch.full_like(in_pixels, pixels))
        assert (moved != 0).sum(1).amax() <= 1, "along one axis"
    assert (truth[group == -1] != 0).all()
    assert task.show(seen, 1).strip.shape[2] == 3


def evaluated(estimate, truth, group) -> Evaluated:
    tiles = torch.ones(len(truth), 2, 8, 8)
    tiles[-1, 1] = 0  # a tile without a boundary
    output = Output(logits=estimate, extra={"truth": truth, "group": group})
    return Evaluated(batch=Batch(image=tiles, names=("",) * len(truth)), scores=estimate, output=output)


def pairs_of(count: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(count, 4, generator=generator) * 2 - 1
    group = torch.arange(count) % (1 + len(SHIFTS)) - 1
    for place, pixels in enumerate(SHIFTS):
        truth[group == place] = torch.tensor([pixels / 10, 0, 0, 0])
    return truth + noise * torch.randn(count, 4, generator=generator), truth, group


def test_a_good_network_is_accepted_and_r2_is_that_of_the_definition():
    estimate, truth, group = pairs_of(500, 0.1)
    metric = TransformationFit(5)
    for part in (slice(0, 200), slice(200, None)):
        metric.update(evaluated(estimate[part], truth[part], group[part]))
    found = metric.compute()
    used = (group == -1) & (torch.arange(500) != 199) & (torch.arange(500) != 499)
    error, spread = (estimate - truth)[used].square().sum(0), (truth[used] - truth[used].mean(0)).square().sum(0)
    expected = (1 - error / spread).tolist()
    names = [f"R2_{name}" for name in ("shift_x", "shift_y", "scale_x", "scale_y")]
    assert [found[name] for name in names] == pytest.approx(expected, rel=1e-5)
    assert found["R2"] == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert "R2_rotation" not in found
    assert (found["monotone"], found["accepted"]) == (1.0, 1.0)
    assert found["length_ratio"] < 0.5


def test_a_network_that_always_answers_the_same_is_not_accepted():
    _, truth, group = pairs_of(500, 0.1)
    metric = TransformationFit(5)
    metric.update(evaluated(torch.full_like(truth, 0.2), truth, group))
    found = metric.compute()
    assert found["R2"] < 0.01
    assert (found["monotone"], found["accepted"]) == (0.0, 0.0)
    assert found["length_ratio"] == pytest.approx(1.0)


def test_it_learns(task, tmp_path):
    """A few steps on clean shifts: the error falls well below that of no estimate at all."""
    cfg = config(tmp_path, *(f"task.pairs.{name}={value}" for name, value in CLEAN.items()), "task.windows=16",
                 "task.pairs.near=0", "task.pairs.identity=0")  # fmt: skip
    data = build.build_data(cfg)
    learner = build.build_training(cfg, data.spec).task
    batch = data.probe()
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(60):
        loss = learner.losses(batch, 0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.fixture(scope="module")
def run(trained_once):
    return trained_once("inverse_net")


def test_its_run_says_what_it_is_about_and_its_file_is_a_network_for_a_loss(run):
    assert json.loads((run / "scores.json").read_text())["headline"]["name"] == "R2"
    model = seglab.load(run).model
    assert model.tile == 32
    assert model(torch.rand(1, 2, 32, 32)).logits.shape == (1, 4)
    exported = checkpoint.export_safetensors(model, checkpoint.describe(run), run.parent / "exported")
    tiles = torch.rand(2, 2, 32, 32)
    assert torch.equal(seglab.load(exported)(tiles).logits, model.eval()(tiles).logits)


def test_it_is_evaluated_like_any_other(run, tmp_path):
    options = cli.compose(
        "evaluate", [f"ckpt={run}", "split=val", f"output={tmp_path}", "trainer.accelerator=cpu", "images=1"]
    )
    found = evaluate.score(options)
    assert {"R2", "R2_scale_y", "length_8px", "accepted"} <= found.keys()
    assert list((tmp_path / "images").rglob("*.png"))


def test_it_predicts_nothing_of_images(run):
    options = cli.compose("predict", [f"ckpt={run}", "source=images", "output=out", "device=cpu"])
    with pytest.raises(ConfigError, match=r"predicts nothing.*regularizer=inverseform"):
        loading.predictor(options)


def test_metrics_of_classes_are_refused(tmp_path):
    cfg = config(tmp_path, "metrics=default")
    with pytest.raises(ConfigError, match=r"metrics\.confusion compares with the label.*transformation"):
        build.build_training(cfg, build.build_data(cfg).spec)


@pytest.mark.parametrize("parameters", [6, 8])
def test_more_parameters_and_the_geodesic_distance_train(parameters, tmp_path):
    cfg = config(
        tmp_path, f"inverse_net.transformations.parameters={parameters}", "loss.transformation.distance=geodesic"
    )
    data = build.build_data(cfg)
    learner = build.build_training(cfg, data.spec, probe=data.probe()).task
    learner.losses(data.probe(), 0).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.model.parameters())


def test_an_interrupted_training_ends_with_the_bits_of_an_uninterrupted_one(tmp_path):
    steps = ["trainer.max_steps=3", "trainer.val_check_interval=2", "test=null"]
    fit(config(tmp_path / "whole", *steps), tmp_path / "whole")
    cut = "+callbacks.cut={_target_: tests.stopper.Cut, hook: on_train_batch_end, step: 3, how: power}"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(config(tmp_path / "cut", *steps, cut), tmp_path / "cut")
    fit(config(tmp_path / "cut", *steps, "resume=auto"), tmp_path / "cut")
    whole, cut_ = (checkpoint.open_file(tmp_path / name / "checkpoints/last.ckpt")[0] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut_[name]) for name in whole)

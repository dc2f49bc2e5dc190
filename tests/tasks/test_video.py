"""A near frame is seen where a loss term reads it, and nowhere else; everything else is semantic segmentation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import seglab
from seglab import build, cli, evaluate, losses
from seglab.errors import ConfigError
from seglab.tasks import Video
from seglab.train import fit
from seglab.types import Batch, Output
from tests.commands import run_apart
from tests.conftest import tiny


class Agreement(losses.Term):
    """Mean squared difference of a branch between the two frames."""

    def __init__(self, branch: str = "logits", own: bool = True, weight: float = 1.0) -> None:
        super().__init__(([branch] if own else []) + [f"near.{branch}"], weight)
        self.branch, self.own = branch, own

    def forward(self, output: Output, batch: Batch) -> Tensor:
        near = self.read(output, f"near.{self.branch}")
        return ((self.read(output, self.branch) if self.own else 0) - near).square().mean()


NEAR = "+loss.near={_target_: tests.tasks.test_video.Agreement, weight: 0.5}"


@pytest.fixture
def made(tmp_path):
    """``made(*overrides) -> (task, batch)``, in evaluation mode so that a network is a function of its image."""

    def make(*overrides: str) -> tuple[Video, Batch]:
        cfg = tiny(tmp_path, "task=video", *overrides)
        data = build.build_data(cfg)
        batch = data.probe()
        return build.build_training(cfg, data.spec, probe=batch).task.eval(), batch

    return make


def calls(task: Video) -> list[tuple[Tensor, Tensor | None]]:
    """What the network is called with from now on."""
    found: list[tuple[Tensor, Tensor | None]] = []
    task.model.register_forward_pre_hook(lambda module, given: found.append(given))
    return found


def test_branches_of_the_near_frame_are_what_the_network_says_of_it(made):
    task, batch = made(NEAR, "+loss.feature={_target_: tests.tasks.test_video.Agreement, branch: feature}")
    output = task.output(batch)
    near = batch.clip.shown[torch.arange(len(batch)), 1 - batch.clip.index]
    assert not torch.equal(near, batch.image)
    alone = task.model(near, wanted=frozenset({"feature"}))
    torch.testing.assert_close(output.read("near.logits"), alone.logits)
    torch.testing.assert_close(output.read("near.feature"), alone.extra["feature"])
    torch.testing.assert_close(output.logits, task.model(batch.image).logits)


def test_gradients_go_through_both_frames(made):
    task, batch = made(NEAR)
    weight = next(parameter for parameter in task.model.backbone.parameters() if parameter.requires_grad)
    term = task.criterion.terms["near"]
    near = batch.clip.shown[torch.arange(len(batch)), 1 - batch.clip.index]

    def gradient(first: Tensor, second: Tensor) -> Tensor:
        return torch.autograd.grad((first - second).square().mean(), weight)[0]

    found = torch.autograd.grad(term(task.output(batch), batch), weight)[0]
    logits = [task.model(image).logits for image in (batch.image, near)]
    torch.testing.assert_close(found, gradient(*logits))
    assert not torch.allclose(found, gradient(task.model(batch.image).logits, logits[1].detach()))
    assert not torch.allclose(found, gradient(logits[0].detach(), task.model(near).logits))


def test_the_ground_truth_is_the_images_and_not_the_near_frames(made):
    task, batch = made(NEAR, "classifier=cac")
    found = calls(task)
    task.losses(batch, 0)
    assert len(found) == 2
    assert found[0][1] is batch.label
    assert found[1][1] is None
    assert torch.equal(found[1][0], batch.clip.shown[torch.arange(len(batch)), 1 - batch.clip.index])


@pytest.mark.parametrize("overrides", [[], [NEAR, "loss.near.weight=0"]], ids=["no term", "weight 0"])
def test_a_near_frame_that_nobody_reads_is_not_seen(made, overrides):
    task, batch = made(*overrides)
    found = calls(task)
    task.losses(batch, 0)
    assert len(found) == 1


def test_the_loss_of_the_image_is_that_of_semantic_segmentation(made, tmp_path):
    task, batch = made(NEAR)
    cfg = tiny(tmp_path, "task=semantic")
    semantic = build.build_training(cfg, build.build_data(cfg).spec, probe=batch).task.eval()
    semantic.model.load_state_dict(task.model.state_dict())
    mine, other = (each.losses(batch, 0).parts for each in (task, semantic))
    torch.testing.assert_close(mine["main"], other["main"])
    assert set(mine) - set(other) == {"near"}
    assert task.evaluated == semantic.evaluated


def test_a_batch_without_a_clip_or_with_more_frames_is_refused_by_the_key_that_mends_it(made):
    task, batch = made(NEAR)
    with pytest.raises(ConfigError, match=r"read near\.logits.*data\.clip="):
        task.losses(replace(batch, clip=None), 0)
    three = batch.clip.map(lambda x: torch.cat([x, x[:, :1]], 1) if x.ndim > 1 else x)
    with pytest.raises(ConfigError, match=r"clips of 3 frames.*data\.clip\.offsets=null"):
        task.losses(replace(batch, clip=three), 0)


def test_what_a_near_frame_has_not_is_refused_with_what_it_has(made):
    with pytest.raises(ConfigError, match=r"'near\.oracle'.*near\.logits"):
        made("classifier=cac", "+loss.near={_target_: tests.tasks.test_video.Agreement, branch: oracle}")
    with pytest.raises(ConfigError, match=r"'near\.logits'"):
        made("task=semantic", NEAR)


def test_single_pixels_of_two_frames_are_not_compared(made):
    task, batch = made(NEAR, "decoder=ifa", "decoder.train_query=points")
    task.train()
    with pytest.raises(ConfigError, match=r"decoder\.train_query=stride4"):
        task.losses(batch, 0)


def test_a_run_is_evaluated_and_predicts_as_semantic_segmentation_does(tmp_path):
    folder = tmp_path / "run"
    results = fit(tiny(folder, "task=video", NEAR), folder)
    written = json.loads((folder / "metrics.json").read_text())
    assert "test/loss" in written
    assert not [name for name in written if "near" in name]  # an evaluation sees single images
    asked = [f"ckpt={folder}", f"output={tmp_path / 'out'}", "images=0", "trainer.accelerator=cpu", "trust=true"]
    found = evaluate.score(cli.compose("evaluate", asked))
    assert found["mIoU"] == pytest.approx(results["test/mIoU"])
    image = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    loaded = seglab.load(folder, trust=True)
    assert isinstance(loaded.task, Video)
    assert loaded(image).logits.shape[:2] == (1, 12)


def test_an_evaluation_takes_another_noise_and_whole_videos(trained_once, tmp_path):
    folder = trained_once("video")
    asked = [f"ckpt={folder}", "images=0", "trainer.accelerator=cpu", "split=test"]
    given = ["data.dataset.frames={test: 2}", "data.dataset.lengths={test: 1}"]
    found = {}
    for noise in ("0.02", "0.3"):
        overrides = [*asked, *given, f"data.dataset.noise={noise}", f"output={tmp_path / noise}"]
        found[noise] = evaluate.score(cli.compose("evaluate", overrides))
    assert found["0.02"]["matrix"].sum() == found["0.3"]["matrix"].sum() > 0.9 * 2 * 48 * 64
    assert found["0.02"]["matrix"].tolist() != found["0.3"]["matrix"].tolist()


@pytest.mark.slow
def test_two_processes_find_what_one_finds_of_videos(trained_once, tmp_path):
    asked = [f"ckpt={trained_once('video')}", "images=0", "trainer.accelerator=cpu", "split=test", "metrics=video"]
    asked += ["data.dataset.frames={test: 3}", "data.dataset.lengths={test: 5}", "data.num_workers=0"]
    asked += ["metrics.perceptual.extractor.name=test_resnet.r160_in1k", "metrics.perceptual.extractor.untrained=true"]
    asked += ["metrics.perceptual.extractor.pretrained=false"]
    written = []
    for devices in (1, 2):
        output = tmp_path / f"on{devices}"
        run_apart(*asked, f"trainer.devices={devices}", f"output={output}", cwd=tmp_path, module="seglab.evaluate")
        written.append((json.loads((output / "metrics.json").read_text()), (output / "frames.csv").read_text()))
    (one, frames), (two, same_frames) = written
    assert {"test/flicker", "test/TC", "test/PC", "test/AUROC_PC"} <= one.keys()
    for name, value in one.items():
        if isinstance(value, float):
            assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert frames == same_frames

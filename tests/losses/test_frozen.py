"""A network that teaches: opened when it is needed, never trained, stored or copied; another one is refused."""

import copy
import json
import pickle

import pytest
import torch

import seglab
from seglab import checkpoint, cli, evaluate
from seglab.errors import CheckpointError, ConfigError
from seglab.losses import Frozen
from seglab.train import fit
from seglab.types import Batch
from tests.conftest import tiny

SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    fit(tiny(folder, *SHORT), folder)
    return folder


def taught(folder, teacher, *overrides):
    choice = ["regularizer=teacher", f"loss.teacher.network.path={teacher}", *SHORT, *overrides]
    return fit(tiny(folder, *choice), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("taught") / "run"
    return folder, taught(folder, teacher, "callbacks=ema")


def test_it_is_opened_at_first_use_and_shared_by_copies(teacher):
    opened = []
    frozen = Frozen(lambda: opened.append(1) or seglab.load(teacher), "a term")
    again = copy.deepcopy(frozen)
    assert not opened
    image = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    assert torch.equal(frozen(image).logits, again(image).logits)
    assert len(opened) == 1
    assert not any(p.requires_grad for p in frozen.loaded.model.parameters())


def test_gradients_pass_through_it_to_what_it_is_given(teacher):
    frozen = Frozen(lambda: seglab.load(teacher), "a term")
    image = torch.randn(1, 3, 48, 64, requires_grad=True)  # a floating image is normalised already
    frozen(image).logits.square().sum().backward()
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in frozen.loaded.model.parameters())


def test_a_copy_in_another_process_opens_its_own(teacher):
    from functools import partial

    frozen = Frozen(partial(seglab.load, path=str(teacher)), "a term")
    assert frozen.fingerprint() == pickle.loads(pickle.dumps(frozen)).fingerprint()


def test_what_cannot_be_opened_is_refused():
    with pytest.raises(ConfigError, match=r"_target_: seglab\.load"):
        Frozen("runs/teacher", "loss.teacher")


def test_the_term_is_trained_with_and_neither_validated_stored_nor_needed_to_evaluate(run, teacher, tmp_path):
    folder, results = run
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert "train/teacher" in rows[0]
    assert {"val/main", "test/main"} <= {*results, *json.loads((folder / "metrics.json").read_text())} | {
        "val/main",
        "test/main",
    }
    assert not any(key.endswith("/teacher") and not key.startswith("train/") for key in rows[0].split(","))
    content = checkpoint.read(folder / "checkpoints/last.ckpt")
    student = checkpoint.read(teacher / "checkpoints/last.ckpt")
    assert content["state_dict"].keys() - student["state_dict"].keys() == set()
    gone = cli.compose(
        "evaluate", [f"ckpt={folder}", f"output={tmp_path / 'out'}", "images=0", "trainer.accelerator=cpu"]
    )
    assert evaluate.score(gone)["mIoU"] >= 0


def test_a_resumed_run_finds_its_teacher_wherever_it_lies_and_is_refused_another(run, teacher, tmp_path):
    folder, _ = run
    moved = checkpoint.export_safetensors(seglab.load(teacher).model, checkpoint.describe(teacher), tmp_path / "moved")
    longer = ["callbacks=ema", "trainer.max_steps=3", "resume=auto"]
    other = tmp_path / "other"
    fit(tiny(other, *SHORT, "seed=7"), other)
    with pytest.raises(CheckpointError, match=r"taught by another network.*loss\.teacher\.network\.path"):
        taught(folder, other, *longer)
    taught(folder, moved, *longer)
    assert checkpoint.describe(folder / "checkpoints/last.ckpt").step == 3


def test_a_teacher_of_other_classes_is_refused(teacher):
    from seglab.losses import TeacherDistillation
    from seglab.types import Output

    term = TeacherDistillation(lambda: seglab.load(teacher))
    image = torch.zeros(1, 3, 48, 64, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="12 classes.* 5 "):
        term(Output(logits=torch.zeros(1, 5, 6, 8)), Batch(image=image, names=("a",)))


def test_a_student_that_agrees_has_no_loss(teacher):
    from seglab.losses import TeacherDistillation

    term = TeacherDistillation(lambda: seglab.load(teacher), temperature=2.0)
    image = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    same = seglab.load(teacher)(image)
    assert float(term(same, Batch(image=image, names=("a",)))) == pytest.approx(0, abs=1e-6)


def test_a_student_asked_at_single_pixels_is_compared_with_the_teacher_there(teacher):
    from seglab.losses import TeacherDistillation
    from seglab.ops.resize import resize_logits
    from seglab.types import Output, at_pixels

    network = seglab.load(teacher)
    image = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    pixels = torch.randint(0, 48 * 64, (2, 5, 7))
    with torch.no_grad():
        logits = at_pixels(resize_logits(network(image).logits, (48, 64)), pixels)
    term, batch = TeacherDistillation(lambda: network), Batch(image=image, names=("a", "b"))
    assert term(Output(logits=logits, pixels=pixels), batch).abs() < 1e-6
    assert term(Output(logits=logits), batch) > 1e-6, "taken for a grid, they are others"

"""Evaluation of a checkpoint: the number, the files, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from PIL import Image

import seglab
from seglab import build, checkpoint, evaluate, predict
from seglab.checksum import checksum
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.scores import Known, Score
from seglab.types import IGNORE
from tests.conftest import TINY, each, options

NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]
SIZES = [(33, 47), (40, 40), (29, 64)]


@pytest.fixture
def root(tmp_path):
    """A folder data set with images of several sizes; class 3 is never labelled."""
    folder, generator = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 3), ("hidden", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            size = SIZES[i % len(SIZES)]
            label = generator.integers(0, 3, size).astype(np.uint8)
            label[:3] = IGNORE
            Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"images/{split}/{i}.png")
            Image.fromarray(label).save(folder / f"labels/{split}/{i}.png")
    (folder / "classes.txt").write_text("red 200 0 0\ngreen 0 200 0\nblue 0 0 200\nnever 9 9 9\n")
    return folder


@pytest.fixture
def saved(root, tmp_path, compose):
    """``saved(*overrides) -> path`` of a checkpoint of an untrained network that describes itself."""

    def save(*overrides: str):
        common = ["data=folder", f"data.root={root}", "data.splits.test=val", "data.num_workers=0", "data.batch_size=1"]
        config = compose("train", [*common, *NET, *overrides])
        module = build.build_training(config, build.build_data(config).spec)
        content = {"state_dict": module.state_dict(), "global_step": 7}
        checkpoint.embed(content, module.config, module.task.spec, module.task.TRAINING_PARTS)
        torch.save(content, tmp_path / "net.ckpt")
        return tmp_path / "net.ckpt"

    return save


@pytest.fixture
def score(tmp_path, compose):
    """``score(ckpt, *overrides) -> metrics``, written to ``evaluated``."""

    def run(ckpt, *overrides: str):
        common = [f"ckpt={ckpt}", f"output={tmp_path / 'evaluated'}", "trainer.accelerator=cpu", "images=2"]
        return evaluate.score(compose("evaluate", [*common, *overrides]))

    return run


@pytest.fixture
def videos(tmp_path):
    """A folder data set of two videos a split; the frames are not in the order of their names' characters."""
    folder, generator = tmp_path / "videos", np.random.default_rng(0)
    for split, name, frame in product(("train", "val"), ("a", "b"), ("f8", "f9", "f10")):
        for kind, high, shape in (("images", 255, (32, 48, 3)), ("labels", 3, (32, 48))):
            (folder / kind / split / name).mkdir(parents=True, exist_ok=True)
            values = generator.integers(0, high, shape).astype(np.uint8)
            Image.fromarray(values).save(folder / kind / split / name / f"{frame}.png")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    return folder


def by_hand(ckpt, root, branch: str = "logits", corruption=None) -> float:
    """mIoU of the whole validation split, from the images and a loop over classes."""
    model = seglab.load(ckpt)
    mean, std = (torch.tensor(model.description.config["normalize"][k]).view(3, 1, 1) for k in ("mean", "std"))
    predictions, labels = [], []
    for index, path in enumerate(sorted((root / "images/val").iterdir())):
        image = np.array(Image.open(path))
        image = torch.from_numpy(corruption(image, index) if corruption else image).permute(2, 0, 1)
        label = np.array(Image.open(root / "labels/val" / path.name))
        with torch.no_grad():
            logits = getattr(model(((image - mean) / std)[None]), branch)
        resized = torch.nn.functional.interpolate(logits, size=label.shape, mode="bilinear", align_corners=False)
        predictions.append(resized.argmax(1).numpy().ravel()[label.ravel() != IGNORE])
        labels.append(label.ravel()[label.ravel() != IGNORE])
    prediction, label = np.concatenate(predictions), np.concatenate(labels)
    ious = []
    for k in range(4):
        union = ((prediction == k) | (label == k)).sum()
        if union:
            ious.append(((prediction == k) & (label == k)).sum() / union)
    return sum(ious) / len(ious)


def test_the_number_is_that_of_a_loop_over_the_images(saved, score, root, tmp_path):
    ckpt = saved()
    results = score(ckpt)
    assert results["mIoU"] == pytest.approx(by_hand(ckpt, root), abs=1e-12)

    written = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert "test/step" not in written
    assert written["test/mIoU"] == results["mIoU"]
    assert written["test/IoU"] == [None if math.isnan(v) else v for v in results["IoU"]]
    assert written["test/classes"] == sum(v is not None for v in written["test/IoU"])
    assert written["test/loss"] > 0
    assert written["uses_labels"] is False
    assert written["whole_split"] is True
    assert written["names"] == ["red", "green", "blue", "never"]
    assert json.loads((tmp_path / "evaluated/status.json").read_text())["status"] == "done"


def test_a_table_a_confusion_matrix_and_images_are_left(saved, score, tmp_path, capsys):
    score(saved())
    assert "green" in capsys.readouterr().out
    folder = tmp_path / "evaluated"
    assert min(Image.open(folder / "confusion.png").size) > 200
    assert (folder / "confusion.csv").read_text().startswith("label \\ prediction;red;green;blue;never\nred;")
    assert len(list((folder / "images").rglob("*.png"))) == 2


def test_batches_of_images_do_not_change_the_number(saved, score):
    ckpt = saved()
    assert score(ckpt)["mIoU"] == score(ckpt, "data.eval_batch_size=3")["mIoU"]


def test_the_protocol_is_the_checkpoints_until_something_is_laid_over_it(saved, score, tmp_path):
    ckpt = saved("evaluation.long_short=[64,48]", "evaluation.flip=true")

    def protocol(*overrides):
        score(ckpt, *overrides)
        return json.loads((tmp_path / "evaluated/metrics.json").read_text())["protocol"]

    stored = protocol()
    assert (stored["long_short"], stored["flip"]) == ([64, 48], True)
    changed = protocol("evaluation.flip=false", "evaluation.mode=slide", "evaluation.window=24", "evaluation.stride=16")
    assert (changed["long_short"], changed["flip"], changed["window"]) == ([64, 48], False, [24, 24])
    plain = protocol("protocol=plain")
    assert (plain["long_short"], plain["flip"]) == (None, False)


def test_a_split_is_chosen_by_its_role_or_by_its_own_name(saved, score, tmp_path):
    ckpt = saved()
    score(ckpt, "split=train")
    assert "train/mIoU" in json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert score(ckpt, "split=hidden")["matrix"].sum() == (30 * 47) + (37 * 40)


def test_the_data_sets_own_name_of_the_split_is_said(saved, score, tmp_path, capsys):
    score(saved("data.splits.val=hidden"), "split=val")
    written = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert (written["split"], written["val/split"]) == ("val", "hidden")
    assert "folder val (split hidden)" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["auto", "null"])
def test_a_checkpoint_without_a_test_split_is_asked_for_another(saved, score, root, given):
    ckpt = saved(f"data.splits.test={given}")
    with pytest.raises(ConfigError, match=r"split=test: folder has no such split.*hidden, train, val.*split=val"):
        score(ckpt)
    assert score(ckpt, "split=val")["mIoU"] == pytest.approx(by_hand(ckpt, root), abs=1e-12)


def test_a_split_that_is_not_there_is_refused_by_the_key_that_was_typed(saved, score):
    with pytest.raises(ConfigError, match="split=valid: folder has no such split") as caught:
        score(saved(), "split=valid")
    assert "change data.splits" not in str(caught.value)


def test_contours_and_calibration_are_an_option(saved, score):
    ckpt = saved()
    plain, full = score(ckpt), score(ckpt, "metrics=full")
    assert {"mBoundaryIoU", "NLL", "ECE"} <= full.keys() - plain.keys()
    assert full["mIoU"] == plain["mIoU"]
    assert 0 < full["NLL"] < 2 * math.log(4), "near that of an untrained network of 4 classes"


def test_the_metrics_are_those_of_the_checkpoint_unless_others_are_chosen(saved, score, tmp_path):
    ckpt = saved("metrics=full")
    stored, fewer = score(ckpt), score(ckpt, "metrics=default")
    assert {"mBoundaryIoU", "NLL", "ECE"} <= stored.keys() - fewer.keys()
    assert Known.of_run(tmp_path / "evaluated").find("test/NLL") == Score("NLL", "min", "nats")


def test_the_oracle_reads_the_labels_and_says_so(saved, score, tmp_path, capsys):
    score(saved("classifier=cac"), "oracle=true")
    assert "USES LABELS" in capsys.readouterr().out
    written = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert written["uses_labels"] is True
    assert "test-oracle/mIoU" in written
    assert "test/mIoU" not in written


@pytest.mark.parametrize(
    "protocol", [["evaluation.flip=true"], ["evaluation.mode=slide", "evaluation.window=24", "evaluation.stride=16"]]
)
def test_the_oracle_follows_windows_and_flips(saved, score, protocol):
    ckpt = saved("classifier=cac")
    choices = (["oracle=true", *protocol], ["oracle=true"], protocol)
    found, whole, predicted = (score(ckpt, *choice)["matrix"] for choice in choices)
    assert found.sum() == whole.sum() == predicted.sum()
    assert not np.array_equal(found, whole)
    assert not np.array_equal(found, predicted)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["classifier=linear"], "no branch that reads the labels"),
        (["classifier=cac", "~loss.gt", "~loss.distill"], "no loss term trained"),
    ],
)
def test_an_oracle_that_is_not_there_or_not_trained_is_refused(saved, score, overrides, message):
    with pytest.raises(ConfigError, match=message):
        score(saved(*overrides), "oracle=true")


def test_a_split_without_labels_is_refused_with_a_hint_to_predict(saved, score):
    with pytest.raises(DataError, match=r"seglab\.predict ckpt="):
        score(saved("data.dataset.labels=null"))


def test_data_of_another_class_count_is_refused(saved, score, root):
    ckpt = saved()
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(CheckpointError, match=r"predicts 4 classes .* has 3"):
        score(ckpt)


@pytest.mark.parametrize("classes", ["never\nblue\ngreen\nred\n", "red\nblue\ngreen\nfourth\n"])
def test_classes_of_another_order_are_refused_unless_it_is_ignored(saved, score, root, caplog, classes):
    ckpt = saved()
    before = score(ckpt)["IoU"]
    (root / "classes.txt").write_text(classes)
    with pytest.raises(CheckpointError, match=r"have another id in the data.*class_order=ignore"):
        score(ckpt)
    assert score(ckpt, "class_order=ignore")["IoU"] == pytest.approx(before, nan_ok=True)  # id by id, as before
    assert "names differ" in caplog.text


def test_a_class_of_another_name_in_the_same_place_is_a_warning(saved, score, root, caplog):
    ckpt = saved()
    (root / "classes.txt").write_text("scarlet\ngreen\nblue\nnever\n")
    score(ckpt)
    assert "names differ" in caplog.text


def test_an_unknown_class_order_is_refused(saved, score):
    with pytest.raises(ConfigError, match="class_order=maybe — expected one of refuse, ignore"):
        score(saved(), "class_order=maybe")


def test_what_a_label_error_suggests_can_be_typed(saved, score, root):
    ckpt = saved()
    for path in (root / "labels/val").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 2, 77, label).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match="ids 77"):
        score(ckpt)
    assert score(ckpt, "data.dataset.label_map={0: 0, 1: 1, 77: 2, 255: 255}")["matrix"].sum() > 0


def test_a_checkpoint_cannot_name_what_is_not_a_part(saved, score, tmp_path):
    ckpt = saved()
    content = torch.load(ckpt, weights_only=True)
    for target in ("os.system", "seglab.runs.atomic.os.system", "seglab.data.io.os.remove"):
        content["seglab"]["config"]["loss"]["main"] = {"_target_": target, "command": f"touch {tmp_path / 'ran'}"}
        torch.save(content, ckpt)
        with pytest.raises(CheckpointError, match="trust=true"):
            score(ckpt)
    assert not (tmp_path / "ran").exists()


def test_a_training_runs_folder_is_not_written_over(saved, score, tmp_path):
    (tmp_path / "evaluated/checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="training run"):
        score(saved())


def test_callbacks_for_insight_look_at_a_checkpoint(saved, score, root, tmp_path):
    pytest.importorskip("sklearn")
    chosen = "callbacks=[context_gap,tau_calibration,prototype_report,feature_projection]"
    ckpt = saved("classifier=cac")
    metrics = score(ckpt, "split=val", chosen)
    assert metrics["mIoU_coarse"] == pytest.approx(by_hand(ckpt, root, "coarse"), abs=1e-12)
    assert metrics["context_gap"] == pytest.approx(metrics["mIoU_oracle"] - metrics["mIoU"])
    written = {path.name for path in (tmp_path / "evaluated/insight").iterdir()}
    assert {"context_gap_test.csv", "tau_calibration_test.png", "prototypes_test.png"} <= written
    assert any(name.startswith("projection_test") for name in written)
    assert not (tmp_path / "evaluated/checkpoints").exists()


def test_metrics_without_the_headline_are_refused_before_anything_is_evaluated(saved, score):
    with pytest.raises(ConfigError, match=r"metrics= gives BoundaryIoU, ECE, NLL, mBoundaryIoU .*expected mIoU"):
        score(saved(), "metrics=full", "metrics.confusion=null")


@pytest.mark.parametrize("predictor", each(options("predictor"), "still", "aux_adapt"))
def test_every_predictor_scores_the_files_that_it_writes(saved, score, compose, videos, tmp_path, predictor):
    ckpt = saved(f"data.root={videos}")
    chosen = [f"predictor={predictor}"]
    further = [key for key in compose("evaluate", ["ckpt=x", *chosen])["predictor"] if key != "refine"]
    chosen += [f"predictor.{key}={ckpt}" for key in further]  # a network beside the first
    found = score(ckpt, *chosen, "metrics=default", "data.eval_batch_size=4")
    about = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert about["predictor"] == compose("evaluate", ["ckpt=x", *chosen])["predictor"]
    sums = {f"predictor.{key}": checksum(seglab.load(ckpt).model.state_dict()) for key in further}
    assert about.get("networks", {}) == sums

    written = predictions(compose, ckpt, videos, tmp_path / predictor, *chosen)
    labels = {name: np.array(Image.open(videos / "labels/val" / name)) for name in written}
    matrix = sum(
        np.bincount((labels[name] * 3 + ids).ravel(), minlength=9).reshape(3, 3) for name, ids in written.items()
    )
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    assert found["mIoU"] == pytest.approx((matrix.diagonal() / union).mean(), abs=1e-12)


def test_a_temporal_average_changes_all_frames_but_the_first_of_a_sequence(saved, compose, videos, tmp_path):
    ckpt = saved(f"data.root={videos}")
    still = predictions(compose, ckpt, videos, tmp_path / "still")
    averaged = predictions(compose, ckpt, videos, tmp_path / "averaged", "predictor=temporal_average")
    # Going through probabilities rounds: a pixel whose two best scores are as good as equal may turn.
    same = {name for name in still if (still[name] == averaged[name]).mean() > 0.995}
    assert same == {"a/f8.png", "b/f8.png"}, "f8 comes before f9 and f10"


@pytest.mark.parametrize("target", ["aux", "main"])
def test_what_adapts_learns_in_the_trainer_and_leaves_the_main_network_as_it_was(
    saved, score, videos, monkeypatch, target
):
    aux = saved(f"data.root={videos}", "seed=5").rename(videos / "aux.ckpt")
    ckpt, refinements, modules = saved(f"data.root={videos}"), [], []
    for name, made in (("build_refinement", refinements), ("build_module", modules)):
        built = getattr(build, name)
        monkeypatch.setattr(build, name, lambda *given, b=built, m=made: m.append(b(*given)) or m[-1])
    chosen = [f"predictor.refine.target={target}", "predictor.refine.optimizer.lr=0.5"]
    score(ckpt, "predictor=aux_adapt", f"predictor.aux={aux}", *chosen, "trainer.precision=bf16-mixed")
    (refinement,), (module,) = refinements, modules
    assert any(not torch.equal(p, start) for p, start in zip(refinement.trained, refinement.start, strict=True))
    assert {p.dtype for p in refinement.network.parameters()} == {torch.float32}
    stored, now = seglab.load(ckpt).model.state_dict(), module.task.model.state_dict()
    assert [name for name in stored if not torch.equal(stored[name], now[name])] == []


def test_an_auxiliary_network_that_is_not_named_or_of_other_classes_is_refused(saved, score, root, videos):
    ckpt = saved(f"data.root={videos}")
    with pytest.raises(ConfigError, match=r"set predictor\.aux=FILE"):
        score(ckpt, "predictor=aux_adapt")
    other = ckpt.rename(ckpt.with_name("aux.ckpt"))
    ckpt = saved(f"data.root={root}")  # of four classes
    with pytest.raises(CheckpointError, match=r"predictor\.aux=.*aux\.ckpt has 3 classes"):
        score(ckpt, "predictor=aux_adapt", f"predictor.aux={other}")
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt"):
        score(ckpt, "predictor=aux_adapt", "predictor.aux=nothing.ckpt")


def test_a_predictor_of_sequences_refuses_data_without_any(saved, score, compose):
    with pytest.raises(ConfigError, match=r"scenes has no sequences of frames in split `test` .*predictor=still"):
        score(saved("data=scenes", "data.root=null", "data.splits.test=test", *TINY), "predictor=temporal_average")


OF_VIDEO = [
    "metrics=video", "metrics.temporal.flow={_target_: seglab.flow.Zero}", "data.eval_batch_size=4",
    *(f"metrics.perceptual.extractor.{key}" for key in ("name=test_resnet.r160_in1k", "pretrained=false", "untrained=true")),
]  # fmt: skip


def test_measures_of_videos_are_of_the_frames_in_their_order_and_stand_beside_miou(
    saved, score, compose, videos, tmp_path
):
    ckpt = saved(f"data.root={videos}")
    found = score(ckpt, *OF_VIDEO)
    written = predictions(compose, ckpt, videos, tmp_path / "still")
    names = [f"{video}/f{frame}.png" for video in "ab" for frame in (8, 9, 10)]
    labels = {name: np.array(Image.open(videos / "labels/val" / name)) for name in names}
    pairs = [(a, b) for a, b in pairwise(names) if a[0] == b[0]]
    steady = {pair: labels[pair[0]] == labels[pair[1]] for pair in pairs}
    changed = {(a, b): steady[a, b] & (written[a] != written[b]) for a, b in pairs}
    rate = sum(x.sum() for x in changed.values()) / sum(x.sum() for x in steady.values())
    assert found["flicker"] == pytest.approx(rate, abs=1e-12)
    stored = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert {f"test/{name}" for name in ("mIoU", "flicker", "TC", "PC", "AUROC_PC")} <= stored.keys()
    rows = [line.split(";") for line in (tmp_path / "evaluated/frames.csv").read_text().splitlines()]
    assert rows[0] == ["sequence", "frame", *(f"{name} per frame" for name in ("flicker", "accuracy", "TC", "PC"))]
    each = {row[1].removeprefix("images/val/"): row for row in rows[1:]}
    assert set(each) == {name.removesuffix(".png") for name in names}
    (a, b), *_ = pairs
    assert float(each["a/f9"][2]) == pytest.approx(changed[a, b].sum() / steady[a, b].sum())
    assert each["b/f8"][2] == "nan", "the first frame of a video is compared with none"
    assert (tmp_path / "evaluated/frames.png").is_file()
    assert json.loads((tmp_path / "evaluated/scores.json").read_text())["scores"]["flicker"]["direction"] == "min"


def test_measures_of_videos_refuse_data_without_any(saved, score):
    with pytest.raises(ConfigError, match=r"scenes has no sequences of frames in split `test` .*metrics=default"):
        score(saved("data=scenes", "data.root=null", "data.splits.test=test", *TINY), *OF_VIDEO)


def test_every_corruption_is_of_the_images_alone_and_recorded_with_the_score(saved, score, root, compose, tmp_path):
    ckpt = saved("seed=3")
    for option in options("corruption"):  # of one checkpoint: to save another takes as long as to evaluate it
        folder = tmp_path / option
        found = score(ckpt, f"corruption={option}", "images=0", f"output={folder}")
        chosen = build.build_corruption(compose("evaluate", ["ckpt=x", f"corruption={option}"])["corruption"])
        assert found["mIoU"] == pytest.approx(by_hand(ckpt, root, corruption=chosen), abs=1e-12), option
        recorded = json.loads((folder / "metrics.json").read_text())["corruption"]
        assert (recorded and recorded["name"]) == (None if option == "none" else option)
        assert recorded == (chosen and chosen.record())
        assert chosen is None or recorded["seed"] == 0, "not the network's own, so that others see the same"


def test_a_corrupted_evaluation_shows_its_images_says_so_and_keeps_its_folder_to_itself(saved, score, tmp_path, capsys):
    ckpt, folder = saved(), tmp_path / "evaluated"
    white = ["corruption=brightness", "corruption.levels=[{brightness_limit: [1.0, 1.0]}]"]
    score(ckpt, *white)
    assert "folder test (split val), brightness, severity 1\n" in capsys.readouterr().out
    (path, *_) = sorted((folder / "images").rglob("*.png"))
    assert (np.array(Image.open(path))[40:200, :300] == 255).all()  # of the first panel, which is 360 pixels wide

    text = (folder / "metrics.json").read_text()
    for other in ([], ["corruption=fog"], [*white, "corruption.seed=1"]):
        with pytest.raises(ConfigError, match=r'evaluated holds .* corruption \{"name": "brightness".*another output='):
            score(ckpt, *other)
    assert (folder / "metrics.json").read_text() == text
    (folder / "metrics.json").write_text('{"test/mIoU": 0.5}')  # without a corruption, by an earlier version
    with pytest.raises(ConfigError, match=r'holds .* corruption null \(now \{"name": "brightness"'):
        score(ckpt, *white)


def predictions(compose, ckpt, videos, output, *overrides: str) -> dict[str, np.ndarray]:
    """Class ids that ``seglab.predict`` writes of the validation images, by name."""
    common = [f"ckpt={ckpt}", f"source={videos / 'images/val'}", f"output={output}", "device=cpu", "write=[index]"]
    predict.predict_images(compose("predict", [*common, *overrides]))
    files = sorted((output / "index").rglob("*.png"))
    return {path.relative_to(output / "index").as_posix(): np.array(Image.open(path)) for path in files}

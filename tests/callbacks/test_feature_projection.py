import csv
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build
from seglab.callbacks.feature_projection import FeatureProjection, find, last
from seglab.classifiers import CAC, SSA, Linear
from seglab.errors import ConfigError
from seglab.ops.resize import downsample_labels
from seglab.types import IGNORE
from tests.callbacks.observing import trained

pytest.importorskip("sklearn")

TINY = [
    "data.dataset.size=[48,64]", "data.dataset.lengths={train: 24, val: 3, test: 2}", "data.batch_size=4", "data.num_workers=0",
    "augment.long_short=null", "augment.crop=[48,64]", "trainer.max_steps=3", "trainer.val_check_interval=2",
    "trainer.accelerator=cpu", "backbone.name=test_resnet.r160_in1k", "decoder.width=16", "callbacks.images=null",
    "callbacks.class_table=null",
]  # fmt: skip


def train(folder, *overrides):
    return trained(folder, [*TINY, *overrides])


@pytest.fixture(scope="module")
def ssa(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssa")
    chosen = [
        "callbacks=feature_projection",
        "callbacks.feature_projection.pixels=5",
        "callbacks.feature_projection.image=000001",
    ]
    return folder, *train(folder, "classifier=ssa", *chosen)


def rows(path):
    return list(csv.DictReader(path.open()))


def test_the_last_validation_and_the_test_leave_a_figure_and_its_coordinates(ssa):
    names = {path.name for path in (ssa[0] / "insight").iterdir()}
    assert names == {
        f"projection_{place}_tsne{kind}" for place in ("val_000002", "test_000003") for kind in (".png", ".csv")
    }
    figure = np.asarray(Image.open(ssa[0] / "insight/projection_val_000002_tsne.png"))
    assert figure.shape[0] > 600
    assert len(np.unique(figure.reshape(-1, 3), axis=0)) > 50


def test_training_is_bit_equal_with_and_without_it(ssa, tmp_path):
    _, without, states = train(tmp_path, "classifier=ssa")
    _, _, seen, after = ssa
    assert seen.keys() == without.keys()
    assert all(torch.equal(seen[name], without[name]) for name in seen)
    assert after == states, "random numbers were drawn"


def test_pixels_are_balanced_and_lie_in_their_class(ssa):
    data = build.build_data(ssa[1])
    label = torch.from_numpy(np.array(data.items("val").read(1).label)).long()[None]
    found = rows(ssa[0] / "insight/projection_val_000002_tsne.csv")
    pixels = [row for row in found if row["kind"] == "pixel"]
    h, w = (max(int(row[axis]) for row in pixels) + 1 for axis in ("row", "column"))
    ids = downsample_labels(label, (12, 16))[0]  # stride 4
    assert h <= 12
    assert w <= 16
    counts = {}
    for row in pixels:
        k = data.spec.classes.index(row["class"])
        assert ids[int(row["row"]), int(row["column"])] == k
        counts[k] = counts.get(k, 0) + 1
    assert counts == {int(k): min(5, int((ids == k).sum())) for k in ids.unique() if k != IGNORE}
    for kind in ("static", "adapted", "oracle"):
        assert [row["class"] for row in found if row["kind"] == kind] == [data.spec.classes[k] for k in sorted(counts)]


def test_every_validation_is_drawn_on_request_and_pca_says_what_it_shows(tmp_path):
    key = "callbacks.feature_projection"
    train(
        tmp_path,
        "callbacks=feature_projection",
        f"{key}.when=every",
        f"{key}.method=pca",
        "trainer.val_check_interval=1",
    )
    names = {path.name for path in (tmp_path / "insight").glob("*.png")}
    assert names == {
        f"projection_{place}_pca.png" for place in ("val_000001", "val_000002", "val_000003", "test_000003")
    }
    found = rows(tmp_path / "insight/projection_val_000003_pca.csv")
    assert {row["kind"] for row in found} == {"pixel", "static"}, "a fixed classifier adapts nothing"


def chosen(classifier, image=1.0, **settings):
    """What is projected of a feature map of 4 x 4 with two classes of three."""
    torch.manual_seed(0)
    label = torch.tensor([[0, 0, 2, 2]] * 3 + [[IGNORE] * 4])[None]
    feature = image * torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        output = classifier.eval()(feature, label)
    return FeatureProjection(**settings).choose(classifier, feature, output, label), feature, output


def test_a_cosine_classifier_is_drawn_on_the_unit_sphere():
    points, feature, output = chosen(CAC(8, 3), image=7.0)
    assert np.allclose(np.linalg.norm(points.vectors, axis=1), 1)
    assert points.kinds == ["pixel"] * 12 + ["static"] * 2 + ["adapted"] * 2 + ["oracle"] * 2
    assert points.classes.tolist() == [0] * 6 + [2] * 6 + [0, 2] * 3
    y, x = points.places[7]
    direction = torch.nn.functional.normalize(feature[0, :, y, x].double(), dim=0)
    assert np.allclose(points.vectors[7], direction)
    adapted = torch.nn.functional.normalize(output.prototypes[0, 2].double(), dim=0)
    assert np.allclose(points.vectors[15], adapted)


def test_a_dot_product_keeps_the_pixels_and_gives_prototypes_their_mean_length():
    for classifier in (Linear(8, 3), CAC(8, 3, similarity="dot")):
        points, feature, _ = chosen(classifier, image=7.0)
        y, x = points.places[0]
        assert np.allclose(points.vectors[0], feature[0, :, y, x])
        lengths = np.linalg.norm(points.vectors, axis=1)
        assert np.allclose(lengths[12:], lengths[:12].mean())


def test_ssa_is_drawn_as_it_compares_with_its_position():
    points, feature, output = chosen(SSA(8, 3))
    y, x = points.places[3]
    seen = (feature + output.position)[0, :, y, x].double()
    assert np.allclose(points.vectors[3], seen / seen.norm(), atol=1e-6)


def test_the_choice_depends_on_the_seed_alone():
    one, two, other = (chosen(CAC(8, 3), pixels=2, seed=seed)[0] for seed in (1, 1, 2))
    assert one.places == two.places != other.places
    assert one.kinds.count("pixel") == 4


def test_the_perplexity_fits_few_points():
    callback = FeatureProjection(perplexity=30)
    flat, axes = callback.project(np.random.default_rng(0).normal(size=(7, 8)))
    assert flat.shape == (7, 2)
    assert np.isfinite(flat).all()
    assert "perplexity 2" in axes[0]


NAMES = ["val/street_1", "val/street_2", "more/street_2", "val/7"]


def test_an_image_is_found_by_number_name_or_the_end_of_its_name():
    assert find(3, NAMES) == 3
    assert find("val/street_2", NAMES) == 1
    assert find("street_1", NAMES) == 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (4, "has 4 images; expected 0 to 3"),
        (-1, "has 4 images"),
        ("street_3", "did you mean .*street_"),
        ("val/stret_1", r"did you mean val/street_1"),
        ("zzzzzz", "expected a name like val/street_1"),
        ("street_2", "is the name of 2 images"),
    ],
)
def test_an_image_that_is_not_there_is_refused_with_what_is(image, message):
    with pytest.raises(ConfigError, match=message):
        find(image, NAMES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": 0}, {"pixels": 2.5}, {"pixels": True}, {"method": "umap"}, {"perplexity": 0.5}, {"perplexity": float("nan")},
        {"seed": -1}, {"when": "first"}, {"image": None}, {"image": True}, {"image": 1.5},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"callbacks.feature_projection.{next(iter(wrong))}=.* — expected"):
        FeatureProjection(**wrong)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'seglab\[insight\]'"):
        FeatureProjection().setup(None, None, "fit")


def test_an_unknown_image_ends_the_run_before_it_trains(tmp_path):
    with pytest.raises(ConfigError, match="did you mean val/000001"):
        train(tmp_path, "callbacks=feature_projection", "callbacks.feature_projection.image=val/00001")
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(("step", "expected"), [(4, False), (8, True), (10, True)])
def test_the_last_validation_is_the_one_after_which_no_step_of_validation_comes(step, expected):
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), val_check_batch=8, accumulate_grad_batches=2, global_step=step, max_steps=10
    )
    assert last(trainer) is expected


@pytest.mark.parametrize(("poison", "reason"), [(float("nan"), "not finite"), (None, "fewer than two labelled pixels")])
def test_what_cannot_be_drawn_is_left_out_and_training_goes_on(poison, reason, caplog):
    with torch.no_grad():
        label = torch.full((1, 4, 4), IGNORE if poison is None else 1)
        feature = torch.full((1, 8, 4, 4), poison or 1.0)
        classifier = Linear(8, 3)
        callback = FeatureProjection()
        callback.drawn = (
            SimpleNamespace(name="val/a"),
            callback.choose(classifier, feature, classifier(feature), label),
        )
    task = SimpleNamespace(spec=None, model=SimpleNamespace(classifier=classifier))
    module = SimpleNamespace(stage="val", task=task)
    callback.on_validation_end(SimpleNamespace(global_step=1), module)
    assert reason in caplog.text

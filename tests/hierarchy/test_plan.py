"""The plan: written and read again, refused where it does not fit, and what a configuration makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seglab.errors import ConfigError, DataError
from seglab.hierarchy import figure, plan
from seglab.hierarchy.clusters import curve, merge_order
from seglab.hs3 import FINAL, planned

CLASSES = ("road", "sky", "tree", "car", "person")
NODE = {"plan": None, "layers": None, "tan_theta": None, "none_fits": None, "clusters": "plan"}


def matrices() -> dict[str, np.ndarray]:
    """A layer that tells {0, 1} from {2, 3, 4}, a better one, and the prediction."""
    owner = np.array([0, 0, 1, 1, 1])
    coarse = np.where(owner[:, None] == owner, 30, 2)
    fine = np.full((5, 5), 2) + np.diag([90] * 5)
    return {"backbone.1": coarse, "backbone.2": fine, FINAL: np.full((5, 5), 1) + np.diag([90] * 5)}


def made(angle=0.0, none_fits="coarsest") -> plan.Plan:
    return planned(matrices(), CLASSES, angle, none_fits, {"checkpoint": "abc", "images": 4, "of": 40})


@pytest.fixture
def path(tmp_path) -> Path:
    plan.write(made(), tmp_path / plan.FILE, "0.0")
    return tmp_path / plan.FILE


def test_a_plan_is_read_as_it_was_written_from_the_file_or_its_folder(path):
    assert plan.read(path) == made()
    assert plan.read(path.parent) == made()
    assert json.loads(path.read_text())["probe"]["checkpoint"] == "abc"


def test_it_holds_curves_nested_clusters_and_what_an_angle_chose():
    found = made()
    assert [layer.name for layer in found.layers] == ["backbone.1", "backbone.2"]
    assert found.layers[0].clusters == [[0, 1], [2, 3, 4]]
    assert found.layers[0].curve == tuple(curve(matrices()["backbone.1"], merge_order(matrices()["backbone.1"])))
    assert found.final[-1] == found.reference
    assert [len(layer.clusters) for layer in made({"backbone.2": -9.0}).layers] == [2, 4]
    assert made(9.0).layers[0].clusters == [[0, 1], [2, 3, 4]]
    assert made(9.0, "drop").layers[0].clusters == []


def test_the_configuration_gets_the_clusters_of_each_layer(path):
    node = {**NODE, "plan": str(path)}
    assert plan.tasks(node, None, False, 0) == [
        {"layer": layer.name, "clusters": layer.clusters} for layer in made().layers
    ]
    assert plan.tasks(node, ["backbone.2"], False, 0) == [
        {"layer": "backbone.2", "clusters": made().layers[1].clusters}
    ]
    assert plan.tasks(node, None, True, 0)[1] == {"layer": "backbone.2", "clusters": None}
    assert plan.tasks(NODE, ["feature"], False, 0) == [{"layer": "feature", "clusters": None}]


def test_another_angle_is_chosen_from_the_same_file(path):
    for angle in (-9.0, -0.2, 0.0, 0.2):
        again = plan.tasks({**NODE, "plan": str(path), "tan_theta": angle}, None, False, 0)
        assert [task["clusters"] for task in again] == [layer.clusters for layer in made(angle).layers]
    one = plan.tasks({**NODE, "plan": str(path), "tan_theta": {"backbone.1": -9.0}}, None, False, 0)
    assert [len(task["clusters"]) for task in one] == [4, len(made().layers[1].clusters)]
    dropped = plan.tasks({**NODE, "plan": str(path), "tan_theta": 9.0, "none_fits": "drop"}, None, False, 0)
    assert dropped == []


def test_random_clusters_have_the_plans_sizes(path):
    node = {**NODE, "plan": str(path)}
    plain, random = plan.tasks(node, None, False, 0), plan.tasks({**node, "clusters": "random"}, None, False, 0)
    for a, b in zip(plain, random, strict=True):
        assert sorted(map(len, a["clusters"])) == sorted(map(len, b["clusters"]))
    several = [plan.tasks({**node, "clusters": "random"}, None, False, seed) for seed in range(6)]
    assert any(each != plain for each in several)
    assert several[0] == random


def test_a_plan_by_hand_needs_classes_names_and_clusters_alone(tmp_path):
    by_hand = {"format": 1, "classes": list("abc"), "layers": [{"name": "backbone.3", "clusters": [[0, 2], [1]]}]}
    (tmp_path / "mine.json").write_text(json.dumps(by_hand))
    node = {**NODE, "plan": str(tmp_path / "mine.json")}
    assert plan.tasks(node, None, False, 0) == [{"layer": "backbone.3", "clusters": [[0, 2], [1]]}]
    with pytest.raises(ConfigError, match=r"regularizer\.tan_theta chooses from curves.*regularizer\.tan_theta=null"):
        plan.tasks({**node, "tan_theta": 0.1}, None, False, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": "nowhere.json"}, "cannot be read"),
        ({"layers": ["backbone.9"]}, r"backbone\.9 is not in the plan, which has backbone\.1, backbone\.2"),
        ({"layers": ["backbone.1", "backbone.1"]}, "each of them once"),
        ({"tan_theta": {"backbone.7": 0.0}}, r"regularizer\.tan_theta names the layer backbone\.7"),
        ({"tan_theta": float("nan")}, r"regularizer\.tan_theta=nan"),
        ({"none_fits": "both"}, r"regularizer\.none_fits=both"),
        ({"clusters": "mine"}, r"regularizer\.clusters=mine"),
        ({"clusters": "random", "plan": None}, r"set regularizer\.plan=FILE"),
        ({"tan_theta": 0.1, "plan": None}, r"set regularizer\.plan=FILE"),
        ({"plan": None}, r"set regularizer\.plan=FILE.*regularizer\.layers"),
        ({"tau": 3}, r"nothing reads the key regularizer\.tau"),
        ({"plan": 3}, r"regularizer\.plan=3"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_key_that_mends_it(changes, said, path):
    node = {**NODE, "plan": str(path), **changes}
    with pytest.raises(ConfigError, match=said) as refused:
        plan.tasks(node, node["layers"], False, 0)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stored: stored.pop("classes"), "classes"),
        (lambda stored: stored.update(classes=["one"]), "two or more can be told apart"),
        (lambda stored: stored.update(format=9), "format 9"),
        (lambda stored: stored["layers"][0].update(clusters=[[0, 1], [1, 2, 3, 4]]), "each of 0 to 4 once"),
        (lambda stored: stored["layers"][0].update(clusters=[[0, 1, 2, 3, 4]]), "one cluster of all classes"),
        (lambda stored: stored["layers"][0].update(curve=[0.5]), "a curve of 1 values"),
        (lambda stored: stored["layers"][0].update(merges=[[3, 1]]), "merge"),
        (lambda stored: stored.update(layers=[stored["layers"][0]] * 2), "twice"),
        (lambda stored: stored.update(layers=3), "no plan"),
    ],
)
def test_a_damaged_plan_is_refused_by_name(change, said, path):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=said) as refused:
        plan.read(path)
    assert str(path) in str(refused.value)
    assert "set regularizer.plan=FILE" in str(refused.value)


def test_two_classes_are_two_clusters_one_class_and_no_pixel_are_refused():
    two = planned({"backbone.1": np.eye(2) + 1, FINAL: np.eye(2)}, ("a", "b"), 0.0, "coarsest", {})
    assert two.layers[0].clusters == [[0], [1]]
    with pytest.raises(ConfigError, match=r"1 class.*data\.dataset\.classes"):
        planned({"backbone.1": np.eye(1), FINAL: np.eye(1)}, ("a",), 0.0, "coarsest", {})
    with pytest.raises(DataError, match=r"no labelled pixel.*data\.fraction"):
        planned({"backbone.1": np.zeros((2, 2)), FINAL: np.zeros((2, 2))}, ("a", "b"), 0.0, "coarsest", {})


def test_no_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        plan.read(tmp_path / "x.json")


def test_the_image_shows_each_layer_with_its_choice(tmp_path):
    figure.save(made({"backbone.1": 9.0}, "drop"), tmp_path / "a.png")
    figure.save(made(), tmp_path / "b.png")
    from PIL import Image

    a, b = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    assert a.shape[1] > a.shape[0] > 100
    assert a.shape != b.shape or (a != b).any(), "the chosen point of the first layer is not in the first"

"""Every classifier and loss still gives the numbers that ``values.json`` holds (see ``values.py``)."""

from __future__ import annotations

import pytest
import torch

from tests import values
from tests.values import SETTINGS

NAMES = [*values.options(), *values.classes()]


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_stored(name):
    assert values.differences(values.compute(name), values.belonging(name, values.stored())) == []


def test_nothing_is_stored_that_no_longer_exists():
    left = sorted(key for key in values.stored() if key.split("/")[0] not in NAMES)
    assert left == [], f"remove what no classifier or loss has any more with: {values.COMMAND}"


def test_classifiers_and_losses_have_names_of_their_own():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", values.classes())
def test_every_option_of_a_loss_is_in_a_setting(name):
    told = {option for setting in SETTINGS.get(name, {}).values() for option in setting}
    assert values.parameters(name) == told, f"{name}: add its options to SETTINGS in {values.__file__}"


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in SETTINGS for setting in SETTINGS[name]])
def test_every_option_of_a_setting_matters(name, setting):
    chosen, stored = SETTINGS[name][setting], values.stored()[f"{name}/{setting}"]
    for option in chosen:
        without = values.of_term(name, {key: value for key, value in chosen.items() if key != option})
        assert list(values.unequal(without, stored)), f"{option} changes nothing"


@pytest.mark.parametrize(
    ("option", "override", "changed"),
    [
        ("cosine", "classifier.tau=15.000001", {"unlabelled/logits", "labelled/logits", "loss/main", "loss"}),
        ("cac", "loss.distill.smoothness=0.500001", {"loss/distill", "loss"}),
        ("cac", "loss.coarse.weight=1.000001", {"loss"}),
        ("ssa", "loss.semantic.tau=15.000001", {"loss/semantic", "loss"}),
    ],
)
def test_a_change_of_a_millionth_is_seen_where_it_acts(option, override, changed):
    found = values.of_classifier(option, override)
    said = values.differences(found, values.belonging(option, values.stored()))
    keys = {line.split(": ")[0].split("/", 1)[1] for line in said}
    assert {key for key in keys if not key.startswith("gradient/")} == changed
    assert keys > changed, "parameters learn differently, too"


def test_what_is_missing_left_over_or_different_is_said():
    number = {"value": 2.0, "gradient": {"rms": 1.0, "samples": [0.0, 1.0]}}
    expected = {"a/loss": number, "a/gone": number}
    assert values.differences(expected, expected) == []
    for wrong in (2.00001, float("nan"), None):
        assert [
            line.split(" is ")[0] for line in values.differences({"a": {"value": wrong}}, {"a": {"value": 2.0}})
        ] == ["a: value"]
    other = {"value": 2.0, "gradient": {"rms": 1.0, "samples": [0.0, 1.00001]}}
    said = values.differences({"a/loss": other, "a/new": number}, expected)
    assert [line.split(" — ")[0] for line in said] == [
        "a/gone is stored but not computed any more",
        "a/loss: gradient samples 1 is 1.00001, stored 1.0",
        "a/new has no stored value",
    ]
    assert [values.COMMAND in line for line in said] == [True, False, True]


def test_stored_values_are_rewritten_on_request_only(monkeypatch, tmp_path):
    monkeypatch.setattr(values, "FILE", tmp_path / "values.json")
    monkeypatch.setattr(values, "options", lambda: [])
    monkeypatch.setattr(values, "classes", lambda: ["Dice", "Lovasz"])
    run = monkeypatch.setattr
    run("sys.argv", ["values"])
    assert values.main() == 1
    assert not values.FILE.exists()
    run("sys.argv", ["values", "--write"])
    assert values.main() == 0
    first = values.stored()

    values.write({**first, "Dice/default": "old", "Lovasz/default": "old", "Gone/default": "old"})
    run("sys.argv", ["values", "--write"])
    assert values.main() == 1
    assert values.stored() == {**first, "Dice/default": "old", "Lovasz/default": "old"}
    run("sys.argv", ["values", "--write", "Dice"])
    assert values.main() == 1
    assert values.stored() == {**first, "Lovasz/default": "old"}


def test_inputs_have_what_losses_and_classifiers_must_tell_apart():
    label = values.label()
    for image in label:
        assert 0.05 < (image == values.IGNORE).double().mean() < 0.5
    assert sorted(label[0].unique().tolist()) == [0, 1, 2, values.IGNORE]
    assert sorted(label[1].unique().tolist()) == [0, 1, 2, 3, values.IGNORE]
    feature = values.wave((values.B, values.C, *values.MAP), 0.5).movedim(1, 0).flatten(1)
    spread = torch.linalg.svdvals(feature)
    assert spread[-1] > 0.5 * spread[0], "channels are independent"

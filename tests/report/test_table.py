"""Rows against their baseline, checked by hand."""

import math
from dataclasses import replace

import pytest

from seglab.errors import ConfigError
from seglab.report import collect, grid, make, power

PAPER = {
    "source": "A paper, Table 1",
    "setting": "Net, ADE20K val",
    "metric": "mIoU",
    "values": {"linear": 40.0, "new": 42.5},
}


def by_name(table):
    return {next(iter(row.choice.values())): row for row in table.rows}


def test_mean_sd_difference_and_p_over_seeds(folder):
    folder.rows({"baseline": [0.50, 0.54, 0.52], "x": [0.53, 0.58, 0.54]})
    table = make(collect(folder.path))
    base, x = table.rows
    assert table.baseline is base
    assert (base.difference, base.p) == (None, None)
    assert base.mean == pytest.approx(0.52)
    assert base.sd == pytest.approx(0.02)
    assert x.values == (0.53, 0.58, 0.54)
    assert x.difference == pytest.approx(0.03)
    assert x.pairs == 3
    # Differences 0.03, 0.04, 0.02: t = 3 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(2 + t^2).
    assert x.p == pytest.approx(1 - math.sqrt(27) / math.sqrt(29))
    assert (x.parameters, x.seconds) == (1_500_000, 60.0)


def test_a_missing_seed_is_left_out_of_the_difference_on_both_sides(folder):
    folder.rows({"baseline": [0.10, 0.50], "x": [None, 0.60, 0.90]})
    x = make(collect(folder.path)).rows[1]
    assert x.pairs == 1
    assert x.difference == pytest.approx(0.10)
    assert x.p is None
    assert len(x.values) == 2


def test_p_is_adjusted_for_the_comparisons_of_the_table(folder):
    # Differences (1, 2, 3), (1, 2, 6) and (3, 3.1, 3.2) points; the row with one seed has no p and does not count.
    rows = {"a": [0.51, 0.52, 0.53], "b": [0.51, 0.52, 0.56], "c": [0.53, 0.531, 0.532], "one": [0.7, None, None]}
    folder.rows({"baseline": [0.5, 0.5, 0.5], **rows})
    base, a, b, c, one = make(collect(folder.path)).rows
    assert c.p < a.p < b.p
    assert (c.p_holm, a.p_holm, b.p_holm) == pytest.approx((3 * c.p, 2 * a.p, b.p))
    assert (base.p_holm, one.p_holm) == (None, None)


def test_one_comparison_is_not_adjusted(folder):
    folder.rows({"baseline": [0.5, 0.5, 0.5], "a": [0.51, 0.52, 0.53], "one": [0.7, None, None]})
    assert [row.p_holm for row in make(collect(folder.path)).rows] == [None, None, None]


def test_the_seeds_for_a_difference_and_the_smallest_that_is_detected_are_of_the_paired_differences(folder):
    # The rows scatter by some 20 points, their differences (1, 2, 3) by one: 2 points are twice their sd.
    folder.rows({"baseline": [0.3, 0.5, 0.7], "a": [0.31, 0.52, 0.73]})
    a = make(collect(folder.path)).rows[1]
    assert a.difference_sd == pytest.approx(0.01)
    assert a.seeds_needed == 5
    assert a.detectable_difference == pytest.approx(0.01 * power.detectable_effect(3))


@pytest.mark.parametrize("values", [[0.6], [0.6, 0.6, 0.6], [None, None, None, 0.6]])
def test_one_seed_equal_differences_and_no_pairs_say_nothing_on_power(folder, values):
    folder.rows({"baseline": [0.5, 0.5, 0.5], "a": values})
    a = make(collect(folder.path)).rows[1]
    assert a.difference == pytest.approx(0.1)
    assert (a.p, a.seeds_needed, a.detectable_difference) == (None, None, None)


def test_the_sweeps_own_baseline_is_first_choice_then_linear_then_the_first_row(folder):
    folder.rows({"b": [0.5], "linear": [0.5], "a": [0.5]})
    sweep = collect(folder.path)
    assert make(replace(sweep, baseline={"variant": "a"})).baseline.choice == {"variant": "a"}
    assert make(sweep).baseline.choice == {"variant": "linear"}
    named = [run for run in sweep.runs if run.factors["variant"] != "linear"]
    assert make(replace(sweep, runs=named)).baseline.choice == {"variant": "b"}
    assert make(sweep, baseline={"variant": "b"}).baseline.choice == {"variant": "b"}


def test_an_unfinished_baseline_is_not_replaced_by_another_row(folder):
    folder.rows({"a": [0.5], "b": [0.6], "ours": [None]})
    folder.plan(baseline={"variant": "ours"})
    table = make(collect(folder.path))
    assert table.baseline is None
    assert all(row.difference is None for row in table.rows)
    assert "variant=ours has no finished run" in table.notes[0]


def test_a_partial_baseline_is_taken_at_the_same_other_factors(folder):
    for decoder, classifier, value in [
        ("fcn", "linear", 0.1),
        ("fcn", "ssa", 0.2),
        ("fpn", "linear", 0.5),
        ("fpn", "ssa", 0.9),
    ]:
        folder.run(decoder + classifier, value, factors={"decoder": decoder, "classifier": classifier})
    table = make(collect(folder.path), baseline={"classifier": "linear"})
    found = {tuple(row.choice.values()): row.difference for row in table.rows}
    assert found[("fcn", "ssa")] == pytest.approx(0.1)
    assert found[("fpn", "ssa")] == pytest.approx(0.4)
    assert found[("fpn", "linear")] is None


def test_a_factor_may_be_shortened_and_a_number_written_in_any_way(folder):
    folder.rows({5: [0.4], 15.0: [0.5]}, "classifier.tau")
    assert make(collect(folder.path), baseline={"tau": "15"}).baseline.mean == 0.5


@pytest.mark.parametrize(
    ("asked", "said"), [({"variant": "z"}, "variant: a, b"), ({"tau": 1}, "expected one of variant")]
)
def test_a_baseline_that_is_no_row_is_refused(folder, asked, said):
    folder.rows({"a": [0.5], "b": [0.5]})
    with pytest.raises(ConfigError, match=said):
        make(collect(folder.path), baseline=asked)


def test_published_rows_stand_beside_their_own(folder):
    folder.rows({"linear": [0.5], "new": [0.6], "other": [0.6]})
    folder.plan(published=PAPER)
    table = make(collect(folder.path))
    assert [row.published for row in table.rows] == [40.0, 42.5, None]
    assert not make(collect(folder.path), "parameters").shows_published


def test_published_values_find_numbers_by_their_text(folder):
    folder.rows({3: [0.5], 4: [0.6]}, "loss.distill.edge_size")
    folder.plan(published={**PAPER, "values": {"3": 44.74, "4": None}})
    assert [row.published for row in make(collect(folder.path)).rows] == [44.74, None]


def test_any_number_can_be_the_metric_and_runs_without_it_are_named(folder):
    folder.rows({"a": [0.5, 0.6]})
    folder.run("nan", factors={"variant": "b"}, metrics={"val/mIoU": None})
    table = make(collect(folder.path), "val/mIoU")
    assert table.rows[0].mean == pytest.approx(0.275)
    assert len(table.rows) == 1
    assert table.notes == ("nan: has no val/mIoU: left out",)
    for wrong in ("test/nothing", "test/IoU"):
        with pytest.raises(ConfigError, match="parameters, test/mIoU, val/mIoU"):
            make(collect(folder.path), wrong)


def test_runs_of_a_row_that_differ_in_more_than_the_seed_are_told(folder):
    folder.rows({"a": [0.5]})
    folder.run("b", factors={"variant": "a"}, seed=1, config={"optim": {"lr": 0.2}, "logger": {"id": 3}})
    assert make(collect(folder.path)).notes == ("variant=a: its runs differ also in optim.lr",)


def test_only_what_varies_names_a_row(folder):
    for tau in (5, 15):
        folder.run(f"{tau}", factors={"variant": "all", "classifier.tau": tau})
    assert make(collect(folder.path)).factors == ("classifier.tau",)


def test_seeds_alone_are_one_row(folder):
    for seed, value in enumerate((0.4, 0.6)):
        folder.run(f"{seed}", value, seed=seed, overrides=[f"seed={seed}"])
    (row,) = make(collect(folder.path)).rows
    assert (row.choice, row.mean, row.difference) == ({}, 0.5, None)


def test_a_grid_has_holes_where_nothing_is_finished_and_refuses_a_third_factor(folder):
    for a, b in [("x", 1), ("x", 2), ("y", 1)]:
        folder.run(f"{a}{b}", 0.1 * b, factors={"decoder": a, "classifier.tau": b})
    made = grid(make(collect(folder.path)), "decoder", "tau")
    assert (made.row_values, made.column_values) == (["x", "y"], [1, 2])
    assert [[cell and round(cell.mean, 3) for cell in line] for line in made.cells] == [[0.1, 0.2], [0.1, None]]
    folder.run("third", factors={"decoder": "x", "classifier.tau": 1, "lr": 1})
    with pytest.raises(ConfigError, match="would average over lr"):
        grid(make(collect(folder.path)), "decoder", "tau")
    with pytest.raises(ConfigError, match="are both decoder"):
        grid(make(collect(folder.path)), "decoder", "decoder")

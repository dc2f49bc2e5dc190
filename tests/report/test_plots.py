"""The figures of a sweep: which are drawn, what they show, what they leave alone."""

import io
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from seglab import figures
from seglab.errors import ConfigError
from seglab.report import collect, make, plots
from seglab.report.cost import Cost
from seglab.report.plots import style
from seglab.report.plots.cost import front
from seglab.report.plots.factors import logarithmic
from seglab.report.plots.runs import class_differences, class_score
from tests.report import synthetic


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    found = {}
    for kind in (synthetic.structure, synthetic.tau, synthetic.grid):
        folder = tmp_path_factory.mktemp(kind.__name__)
        sweep = collect(kind(folder))
        names = sorted({str(run.factors) for run in sweep.runs})
        costs = {run.folder: Cost(10.0 + names.index(str(run.factors)), 0.01, "cpu") for run in sweep.runs}
        found[kind.__name__] = make(sweep, costs=costs)
    return found


def names(table) -> list[str]:
    return [name for name, _ in plots.fitting(table)]


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_the_figures_follow_from_what_was_varied(tables):
    assert names(tables["structure"]) == ["variants", "classes", "curves"]
    assert names(tables["tau"]) == ["swept", "classes", "curves"]
    assert names(tables["grid"]) == ["heatmap", "classes", "curves"]


def test_a_pareto_front_is_drawn_only_where_networks_differ_in_cost(tables):
    table = tables["structure"]
    rows = tuple(replace(row, cost=Cost(10.0, 0.01 + 0.001 * k)) for k, row in enumerate(table.rows))
    assert "pareto" in names(replace(table, rows=rows))
    with pytest.raises(ConfigError, match="--no-cost"):
        plots.pareto(replace(table, rows=tuple(replace(row, cost=None) for row in rows)))


def test_every_figure_is_written_as_png_of_print_size_and_as_svg_without_pyplot(tables, tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    written = plots.make_all(tables["tau"], tmp_path)
    assert [path.name for path in written] == [
        f"{n}.{s}" for n in ("swept", "classes", "curves") for s in ("png", "svg")
    ]
    for path in written[::2]:
        with Image.open(path) as image:
            assert round(image.info["dpi"][0]) == 200
            assert image.width <= 200 * 6.9
            assert np.asarray(image.convert("L")).std() > 10
    assert all(b"<svg" in path.read_bytes()[:1000] for path in written[1::2])
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_table_gives_the_same_files(tables, tmp_path):
    one, two = (plots.save(plots.swept(tables["tau"]), tmp_path / name / "a") for name in "xy")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_tau_lies_on_a_logarithmic_axis_with_ticks_at_what_was_tried_and_the_baseline_marked(tables):
    figure = plots.swept(tables["tau"])
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "15", "30", "60"]
    line = axes.containers[0][0]
    assert line.get_ydata() == pytest.approx([100 * row.mean for row in tables["tau"].rows])
    assert (
        sum(len(dots.get_offsets()) for dots in axes.collections if len(dots.get_offsets()) == 3) == 15
    )  # a dot for each run
    assert "baseline" in texts(figure)


def test_published_values_have_an_axis_of_their_own_that_spans_as_many_points(tables):
    left, right = plots.swept(tables["tau"]).axes
    assert right.lines[0].get_ydata() == pytest.approx([44.1, 45.3, 44.9])
    assert np.ptp(left.get_ylim()) == pytest.approx(np.ptp(right.get_ylim()))
    assert "CAC (AAAI 2023)" in right.get_ylabel()
    assert len(plots.swept(make(tables["tau"].sweep, "val/mIoU")).axes) == 2
    assert len(plots.swept(replace(tables["tau"], metric="test/mAcc")).axes) == 1  # the paper has no such number


@pytest.mark.parametrize(
    ("factor", "values", "expected"),
    [("classifier.tau", [10, 15], True), ("loss.gt.weight", [0.5, 1, 2], False), ("optim.lr", [1e-4, 1e-3], True), ("x", [-10, 1, 100], False)],
)  # fmt: skip
def test_a_number_is_read_by_its_ratio_when_it_is_a_tau_or_spans_a_decade(factor, values, expected):
    assert logarithmic(factor, values) is expected


def test_a_weight_swept_from_zero_over_decades_still_shows_its_zero(tmp_path):
    jobs = [{"loss.gt.weight": weight, "seed": 0} for weight in (0, 0.1, 1, 10)]
    folder = synthetic.write(
        tmp_path / "s", jobs, lambda choice: 0.0, {"title": "t", "baseline": None, "published": None}
    )
    axes = plots.swept(make(collect(folder))).axes[0]
    low, high = axes.get_xlim()
    assert low < 0 < high
    assert axes.get_xscale() == "symlog"


def test_variants_keep_the_planned_order_and_print_their_differences(tables):
    table = tables["structure"]
    figure = plots.variants(table)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(synthetic.STRUCTURE)
    shown = texts(figure)
    assert style.signed(table.rows[-1].difference, table.score) in shown
    assert "45.36" in shown
    assert "SSA-Seg (NeurIPS 2024), Table 8" in shown
    bar = axes.patches[-1]
    assert bar.get_x() == pytest.approx(100 * table.baseline.mean)
    assert bar.get_width() == pytest.approx(100 * table.rows[-1].difference)


def test_nothing_that_is_drawn_reaches_out_of_the_image(tables):
    for table in tables.values():
        for name, draw in plots.fitting(table):
            figure = draw()
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            width, height = figure.get_size_inches()
            assert box.x0 > -0.03, name
            assert box.y0 > -0.03, name
            assert box.x1 < width + 0.03, name
            assert box.y1 < height + 0.03, name


def test_a_name_with_dollars_is_no_formula_and_the_callers_settings_stay(tmp_path):
    import matplotlib

    jobs = [{"variant": name, "seed": 0} for name in ("$a_{", "x^2$")]
    folder = synthetic.write(
        tmp_path / "s", jobs, lambda choice: 0.0, {"title": "t", "baseline": None, "published": None}
    )
    before = dict(matplotlib.rcParams)
    figure = plots.variants(make(collect(folder)))
    plots.save(figure, tmp_path / "variants")
    assert dict(matplotlib.rcParams) == before


def test_a_heat_map_has_mean_and_sd_in_every_cell_and_turns_round(tables):
    table = tables["grid"]
    shown = texts(plots.heatmap(table))
    for row in table.rows:
        assert f"{style.number(row.mean, table.score)}\n± {style.number(row.sd, table.score)}" in shown
    axes = plots.heatmap(table, rows="decoder", columns="classifier").axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("decoder", "classifier")
    assert axes.images[0].get_array()[0, 3] == pytest.approx(100 * next(r.mean for r in table.rows if r.choice == {"classifier": "ssa", "decoder": "fcn"}))  # fmt: skip
    with pytest.raises(ConfigError, match="two factors"):
        plots.heatmap(tables["tau"])


def test_a_grid_with_holes_has_a_dash_where_no_run_is(tables):
    table = tables["grid"]
    assert "–" in texts(plots.heatmap(replace(table, rows=table.rows[1:]))).split("\n")


def test_classes_are_compared_seed_by_seed_and_sorted(tables):
    table = tables["structure"]
    row, base = table.rows[-1], table.rows[0]
    per_run = [np.array([math.nan if v is None else v for v in run.metrics["test/IoU"]]) for run in row.runs]
    theirs = [np.array([math.nan if v is None else v for v in run.metrics["test/IoU"]]) for run in base.runs]
    expected = np.mean([a - b for a, b in zip(per_run, theirs, strict=True)], 0)
    np.testing.assert_allclose(class_differences(row, base, class_score(table), "test").mean(0), expected)
    axes = plots.classes(table).axes[0]
    shown = {label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert "sign" not in shown  # it does not occur
    assert shown["car"] == pytest.approx(100 * expected[synthetic.CLASSES.index("car")])


def test_classes_take_any_two_rows_and_their_own_baseline_in_a_grid(tables):
    table = tables["structure"]
    assert plots.classes(table, table.rows[1], table.rows[2]).axes[0].get_title(loc="left") == "SEPA − SPPA"
    with pytest.raises(ConfigError, match="--baseline"):
        plots.classes(table, table.rows[0], table.rows[0])
    partial = make(tables["grid"].sweep, baseline={"classifier": "linear"})
    best = style.best(partial)
    assert style.reference(partial, best).choice == {"classifier": "linear", "decoder": best.choice["decoder"]}


def test_curves_have_a_band_over_the_steps_that_all_seeds_share(tables):
    figure = plots.curves(tables["structure"])
    training, validation = figure.axes
    assert (training.get_ylabel(), validation.get_ylabel()) == ("train loss", "val mIoU (%)")
    assert len(validation.lines) == len(validation.collections) == 7
    assert list(validation.lines[0].get_xdata()) == list(range(50, 401, 50))
    runs = tables["structure"].rows[0].runs
    assert validation.lines[0].get_ydata()[-1] == pytest.approx(
        100 * np.mean([run.curve("val/mIoU")[1][-1] for run in runs])
    )
    assert "running mean" in training.get_title(loc="left")
    with pytest.raises(ConfigError, match=r"metrics\.csv"):
        plots.curves(tables["structure"], keys=["train/nothing"])


def test_of_many_rows_only_the_best_and_its_baseline_have_colours(tables):
    axes = plots.curves(tables["grid"]).axes[1]
    grey = [line for line in axes.lines if line.get_color() == figures.PALE]
    assert (len(axes.lines), len(grey)) == (16, 14)


def test_the_front_is_what_no_other_point_beats():
    assert front([(3, 5), (1, 1), (2, 4), (2, 3), (4, 4.5), (1, 0.5)]) == [1, 2, 0]


def test_a_loss_is_no_percentage_and_less_of_it_is_better(tables):
    table = tables["structure"]
    rows = tuple(replace(row, mean=value) for row, value in zip(table.rows, (0.5, 0.4, 0.9, 1, 1, 1, 1), strict=True))
    lossy = replace(table, metric="test/NLL", rows=rows)
    assert style.best(lossy) is rows[1]
    assert figures.label(lossy.metric, lossy.score) == "test NLL (nats)"
    assert style.number(0.4, lossy.score) == "0.4000"
    assert style.number(0.4, table.score) == "40.00"


def test_figures_are_shown_by_anything_that_can_save_them(tables):
    stream = io.BytesIO()
    plots.heatmap(tables["grid"]).savefig(stream, format="pdf")
    assert stream.getvalue().startswith(b"%PDF")

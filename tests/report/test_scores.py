"""Tables and figures of scores of which less is better, in percent or in another unit."""

import json
from dataclasses import replace

import pytest
from matplotlib.colors import same_color

from seglab import figures
from seglab.errors import ConfigError
from seglab.report import collect, cost, document, formats, make, plots
from seglab.report.__main__ import arguments, summarise
from seglab.report.plots import style
from seglab.report.plots.runs import curve_keys
from seglab.scores import Score

ERROR, DISTANCE, MIOU = Score("error", "min", "percent"), Score("distance", "min", "m"), Score("mIoU", "max", "percent")
PAPER = {"source": "A paper", "setting": "Net", "metric": "distance", "values": {"a": 1.5}}


@pytest.fixture
def about(folder):
    """``about(headline, {row: [value by seed]}) -> folder`` of runs that store their scores."""

    def write(headline, rows, *scores, prefix=""):
        for row, values in rows.items():
            for seed, value in enumerate(values):
                metrics = {f"test/{headline.name}": value, f"test/{headline.name}_of": [value, None, value / 2]}
                name = f"{prefix}{row},seed={seed}"
                path = folder.run(name, factors={"variant": row}, seed=seed, metrics=metrics)
                known = {s.name: s.record() for s in (headline, replace(headline, name=f"{headline.name}_of"), *scores)}
                record = {"format": 1, "headline": headline.record(), "scores": known}
                (path / "scores.json").write_text(json.dumps(record))
                (path / "metrics.csv").write_text(f"step,val/{headline.name}\n1,{value}\n2,{value}\n")
        return folder

    return write


def test_the_table_is_about_the_headline_and_the_lowest_error_is_bold(about):
    table = make(collect(about(ERROR, {"a": [0.3, 0.32], "b": [0.2, 0.22]}).path))
    assert (table.metric, table.score) == ("test/error", ERROR)
    content = formats.cells(table)
    assert content.headings[1] == "test error (%)"
    assert content.rows[1][1:4] == ["21.00 ± 1.41", "2", "−10.00"]
    assert content.bold == (1, 1)
    assert "less is better" in formats.footnotes(table)[0]
    assert style.best(table).choice == {"variant": "b"}
    assert document.best_run(table).folder.name == "b,seed=0"
    found = json.loads(formats.json_text(table))
    assert found["score"] == ERROR.record()
    assert found["rows"][0]["direction"] == "min"


def test_another_unit_is_written_behind_the_number(about):
    about(DISTANCE, {"a": [1.25], "b": [2.5]}).plan(published=PAPER)
    table = make(collect(about(DISTANCE, {}).path))
    content = formats.cells(table)
    assert content.headings[1] == "test distance"
    assert content.rows[1] == ["b", "2.5000 m", "1", "+1.2500 m", "not published", "1.50", "60"]
    assert content.rows[0][4] == "1.5000 m"
    assert content.bold == (0, 1)
    assert "published: distance in m, A paper" in "\n".join(formats.footnotes(table))
    assert formats.records(table)[0]["published"] == 1.5
    assert formats.records(table)[0]["published_percent"] is None
    assert "test distance 1.2500 m" in document.lead(table)
    assert plots.variants(table).axes[0].get_xlabel() == "test distance (m), one run each"


def test_the_page_sorts_the_smallest_first_where_less_is_better(about, tmp_path):
    table = make(collect(about(ERROR, {"a": [0.3], "b": [0.2]}).path))
    document.write(table, [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert '<th scope="col" class="number less"><button type="button">test error (%)' in page
    assert '<th scope="col" class="number"><button type="button">seeds' in page
    assert "Less is better." in page
    assert '<tr class="best">' in page


def test_runs_about_different_scores_are_no_table(about):
    about(ERROR, {"a": [0.3]})
    about(MIOU, {"b": [0.5]})
    with pytest.raises(ConfigError, match=r"error \(less is better\): 1 runs, such as a,seed=0; mIoU.*move the runs"):
        collect(about(ERROR, {}).path)


def test_a_run_without_a_record_is_about_miou(about):
    folder = about(MIOU, {"a": [0.5]})
    folder.run("old", 0.6, factors={"variant": "old"})
    table = make(collect(folder.path))
    assert (table.metric, table.score, len(table.rows)) == ("test/mIoU", MIOU, 2)


def test_a_metric_that_is_not_the_same_score_in_all_runs_is_refused(about):
    about(MIOU, {"a": [0.5]}, Score("mine", "max"))
    folder = about(MIOU, {"b": [0.5]}, Score("mine", "min"))
    for path in folder.path.glob("*,seed=0/metrics.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "val/mine": 1.0}))
    with pytest.raises(ConfigError, match="val/mine is not the same score in all runs"):
        make(collect(folder.path), "val/mine")


def test_a_record_that_cannot_be_read_leaves_its_run_out(about):
    folder = about(ERROR, {"a": [0.3], "b": [0.2]})
    (folder.path / "a,seed=0/scores.json").write_text("{")
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["b,seed=0"]
    assert "a,seed=0: scores.json cannot be read" in sweep.problems[0]


def test_an_error_beyond_100_percent_is_impossible_and_a_distance_is_not(about):
    assert collect(about(DISTANCE, {"a": [7.0]}).path).runs
    sweep = collect(about(ERROR, {"b": [7.0]}).path)
    assert "metrics.json: test/error is 7.0 — expected a fraction from 0 to 1" in sweep.problems[0]


def test_the_front_of_cost_and_error_has_the_cheap_and_the_good(about):
    sweep = collect(about(ERROR, {"cheap": [0.3], "good": [0.1], "beaten": [0.4]}).path)
    costs = {"cheap": 1.0, "good": 3.0, "beaten": 2.0}
    table = make(sweep, costs={run.folder: cost.Cost(costs[run.factors["variant"]], 0) for run in sweep.runs})
    front = next(line for line in plots.pareto(table).axes[0].lines if line.get_label() == "Pareto front")
    assert list(front.get_xdata()) == [1.0, 3.0]


def test_classes_curves_and_colours_follow_the_direction(about):
    table = make(collect(about(ERROR, {"a": [0.4], "b": [0.2], "c": [0.3]}).path))
    assert curve_keys(table.rows) == ["val/error"]
    assert plots.curves(table).axes[0].get_ylabel() == "val error (%)"
    axes = plots.classes(table).axes[0]
    assert axes.get_xlabel().startswith("error_of difference (points)")
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([-20, -10]), "the most improved class first"
    assert all(same_color(bar.get_facecolor()[:3], figures.BLUE) for bar in axes.patches)


def test_the_best_row_can_be_put_on_top(about, capsys):
    folder = about(ERROR, {"a": [0.3], "b": [0.2]})
    given = ["--no-cost", "--no-plots", "--no-report", "--format", "md"]
    summarise(arguments().parse_args([str(folder.path), *given]))
    planned = capsys.readouterr().out
    summarise(arguments().parse_args([str(folder.path), *given, "--best-first"]))
    best = capsys.readouterr().out
    assert planned.index("| a |") < planned.index("| b |")
    assert best.index("| b | **20.00** |") < best.index("| a |")

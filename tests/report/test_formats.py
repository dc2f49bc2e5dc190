"""The same numbers in every format, safe in each one's signs."""

import csv
import io
import json

import pytest

from seglab.report import collect, cost, formats, grid, make

PAPER = {"source": "SSA & Co_2024", "setting": "Net, ADE20K val", "metric": "mIoU", "values": {"a_1": 40.0}}


@pytest.fixture
def table(folder):
    folder.rows({"a_1": [0.50, 0.54, 0.52], "b|&%": [0.53, 0.58, 0.54], "c": [0.51, None]})
    folder.plan(published=PAPER, baseline={"variant": "a_1"}, title="50 % of {x}")
    sweep = collect(folder.path)
    costs = {run.folder: cost.Cost(2.5, 0.0123, "one image of 32x32") for run in sweep.runs}
    return make(sweep, costs=costs)


def test_people_read_percent_with_two_decimals(table):
    content = formats.cells(table)
    assert content.headings == [
        "variant",
        "test mIoU (%)",
        "n",
        "difference",
        "p",
        "published",
        "parameters, M",
        "GFLOPs",
        "forward, ms",
        "time, s",
    ]
    assert content.rows[0] == ["a_1", "52.00 ± 2.00", "3", "–", "–", "40.00", "1.50", "2.50", "12.3", "60"]
    assert content.rows[1] == [
        "b|&%",
        "55.00 ± 2.65",
        "3",
        "+3.00",
        "0.035",
        "not published",
        "1.50",
        "2.50",
        "12.3",
        "60",
    ]
    assert content.rows[2][1:4] == ["51.00", "1", "+1.00"]
    assert content.bold == (1, 1)


def test_the_footnotes_say_what_the_numbers_are_and_what_is_missing(table):
    notes = "\n".join(formats.footnotes(table))
    for part in (
        "different numbers of runs",
        "to variant=a_1",
        "paired t test",
        "SSA & Co_2024, Net, ADE20K val; ours are on scenes",
        "one image of 32x32",
    ):
        assert part in notes
    assert formats.missing(table) == ["variant=c,seed=1: not started"]


def test_markdown_cells_cannot_break_the_table(table):
    lines = [line for line in formats.markdown(table).splitlines() if line.startswith("|")]
    assert lines[3].startswith("| b\\|&% | **55.00 ± 2.65** | 3 |")
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}
    assert "- variant=c,seed=1: not started" in formats.markdown(table)


def test_latex_is_escaped_and_the_best_is_bold(table):
    text = formats.latex(table)
    assert r"b\textbar{}\&\% & \textbf{55.00 $\pm$ 2.65} & 3 & +3.00 & 0.035 & not published &" in text
    assert r"a\_1 & 52.00 $\pm$ 2.00 & 3 & -- & -- & 40.00" in text
    assert r"50 \% of \{x\}" in text
    assert r"SSA \& Co\_2024" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert "% not in the table: variant=c,seed=1: not started" in text
    assert text.isascii()


def test_a_negative_difference_is_set_as_a_minus(folder):
    folder.rows({"linear": [0.5], "worse": [0.4]})
    table = make(collect(folder.path))
    assert "& $-$10.00 &" in formats.latex(table)
    assert "| −10.00 |" in formats.markdown(table)


def test_csv_and_json_hold_fractions_under_clear_names(table):
    rows = list(csv.DictReader(io.StringIO(formats.csv_text(table))))
    assert rows[1]["variant"] == "b|&%"
    assert float(rows[1]["mean"]) == pytest.approx(0.55)
    assert rows[1]["values"] == "0.53;0.58;0.54"
    assert (rows[0]["is_baseline"], rows[0]["difference"], rows[0]["published_percent"]) == ("True", "", "40.0")
    content = json.loads(formats.json_text(table))
    row = content["rows"][1]
    assert row["choice"] == {"variant": "b|&%"}
    assert row["forward_seconds"] == 0.0123
    assert row["n"] == row["pairs"] == 3
    assert content["unfinished"] == [{"folder": "variant=c,seed=1", "why": "not started"}]


SEVERAL = {"linear": [0.5, 0.5, 0.5], "a": [0.51, 0.52, 0.53], "b": [0.51, 0.52, 0.56], "c": [0.5, 0.49, 0.511]}


def test_the_adjusted_p_stands_beside_p_in_every_format(folder):
    folder.rows(SEVERAL)
    table = make(collect(folder.path))
    content = formats.cells(table)
    assert content.headings[3:6] == ["difference", "p", "p (Holm)"]
    # With two degrees of freedom p = 1 - t / sqrt(2 + t^2); t is 2 sqrt(3), 1.964 and 0.055.
    shown = [["–", "–"], ["0.074", "0.223"], ["0.188", "0.377"], ["0.961", "0.961"]]
    assert [row[4:6] for row in content.rows] == shown
    assert "| p | p (Holm) |" in formats.markdown(table)
    assert "| +2.00 | 0.074 | 0.223 |" in formats.markdown(table)
    assert "& p & p (Holm) &" in formats.latex(table)
    assert "& 0.074 & 0.223 &" in formats.latex(table)
    rows = list(csv.DictReader(io.StringIO(formats.csv_text(table))))
    found = json.loads(formats.json_text(table))
    assert rows[0]["p_holm"] == ""
    for row, line in zip(rows[1:], found["rows"][1:], strict=True):
        assert float(row["p_holm"]) == line["p_holm"] >= line["p"] == float(row["p"])
    assert found["test"]["comparisons"] == 3


def test_one_comparison_has_no_adjusted_p(table):
    assert "Holm" not in formats.markdown(table)
    assert {row["p_holm"] for row in formats.records(table)} == {None}


def test_a_table_with_every_column_fits_a_terminal_of_120(folder):
    from rich.console import Console

    folder.rows({"baseline": [0.5, 0.5], "SPPA+Lg+Lpd": [0.6, 0.61], "SEPA+Lg+Lsd": [0.6, 0.61]})
    folder.plan(published=PAPER | {"values": {"baseline": 40.0, "SPPA+Lg+Lpd": 41.0, "SEPA+Lg+Lsd": 42.0}})
    sweep = collect(folder.path)
    made = make(sweep, costs={run.folder: cost.Cost(2.5, 0.0123, "one image of 32x32") for run in sweep.runs})
    console = Console(file=io.StringIO(), width=120)
    console.print(formats.rich(made))
    assert "(Holm)" in console.file.getvalue()
    assert "│ SPPA+Lg+Lpd │" in console.file.getvalue()  # not wrapped
    assert "…" not in console.file.getvalue()


def test_the_note_on_power_says_which_differences_the_table_detects_and_which_seeds_the_seen_ones_need(folder):
    folder.rows(SEVERAL)
    note = formats.power_note(make(collect(folder.path)))
    # 3.264 sd for three pairs; the sds are 1.00, 2.65 and 1.05 points, the least difference is 0.03 points.
    assert "with the 3 common seeds, a single comparison (before Holm's correction) at level 0.05" in note
    assert "probability 0.8 a true difference of at least 3.26 to 8.64 points, depending on the row" in note
    assert "differences of the size seen would take 5 to more than 1000 seeds" in note


def test_the_note_on_power_names_one_difference_of_one_comparison_and_the_pairs_that_there_are(folder):
    folder.rows({"linear": [0.5, 0.5, 0.5], "a": [0.51, 0.52, 0.53]})
    note = formats.power_note(make(collect(folder.path)))
    assert "with the 3 common seeds, a single comparison at level 0.05" in note
    assert "at least 3.26 points; a difference of the size seen would take 5 seeds" in note
    folder.rows({"b": [0.51, 0.52]})
    assert "with the 2 to 3 common seeds" in formats.power_note(make(collect(folder.path)))


def test_without_any_p_nothing_is_said_on_power(folder):
    folder.rows({"linear": [0.5], "a": [0.6]})
    table = make(collect(folder.path))
    assert formats.power_note(table) == ""
    assert "power" not in formats.markdown(table)


def test_csv_and_json_hold_what_a_seed_plan_is_made_of(folder):
    folder.rows(SEVERAL)
    found = json.loads(formats.json_text(make(collect(folder.path))))
    assert (found["test"]["alpha"], found["test"]["power"], found["test"]["most_seeds"]) == (0.05, 0.8, 1000)
    keys = "difference_sd", "detectable_difference", "seeds_needed"
    assert [found["rows"][1][key] for key in keys] == [pytest.approx(0.01), pytest.approx(0.03264, abs=1e-5), 5]
    assert found["rows"][3]["seeds_needed"] is None  # more than 1000
    assert [found["rows"][0][key] for key in keys] == [None, None, None]


def test_columns_of_which_nothing_is_known_are_left_out(folder):
    folder.run("a", factors={"variant": "a"})
    assert formats.cells(make(collect(folder.path))).headings == [
        "variant",
        "test mIoU (%)",
        "n",
        "parameters, M",
        "time, s",
    ]


def test_a_paper_without_numbers_is_named_and_every_row_says_so(folder):
    folder.rows({"linear": [0.5], "b": [0.4]})
    folder.plan(published={**PAPER, "values": {}})
    table = make(collect(folder.path))
    assert [row[formats.cells(table).headings.index("published")] for row in formats.cells(table).rows] == [
        "not published"
    ] * 2
    assert "no numbers for these rows are known" in "\n".join(formats.footnotes(table))


def test_a_grid_shows_holes_and_who_has_fewer_seeds(folder):
    for decoder, tau, seed, value in [
        ("fcn", 5, 0, 0.4),
        ("fcn", 5, 1, 0.6),
        ("fcn", 15, 0, 0.7),
        ("fcn", 15, 1, 0.7),
        ("fpn", 5, 0, 0.3),
    ]:
        folder.run(f"{decoder}{tau}{seed}", value, factors={"decoder": decoder, "tau": tau}, seed=seed)
    table = make(collect(folder.path))
    content = formats.grid_cells(table, grid(table, "decoder", "tau"))
    assert content.headings == ["decoder \\ tau", "5", "15"]
    assert content.rows == [["fcn", "50.00 ± 14.14", "70.00 ± 0.00"], ["fpn", "30.00 (n=1)", "–"]]
    assert content.bold == (0, 2)
    assert "paired" not in formats.markdown(table, content)
    assert r"decoder \textbackslash{} tau & 5 & 15 \\" in formats.latex(table, content)


def test_names_are_not_read_as_the_terminals_markup(folder):
    from rich.console import Console

    folder.rows({"[red]x": [0.5], "[/]": [0.6]})
    console = Console(file=io.StringIO(), width=120)
    console.print(formats.rich(make(collect(folder.path))))
    assert "[red]x" in console.file.getvalue()
    assert "[/]" in console.file.getvalue()

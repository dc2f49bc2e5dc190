"""A sweep's files when they are damaged, foreign or changed: named, never a crash, never averaged."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seglab.errors import ConfigError, DataError, UserError
from seglab.multirun import job, record
from seglab.report import __main__ as command
from seglab.report import collect, cost, formats, make
from seglab.runs import atomic
from seglab.runs.provenance import whoami
from tests.report import synthetic
from tests.report.conftest import Folder, dump

FOREIGN: list[Any] = [
    None, True, 0, -1, 7, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", "abc", "\ud800", "a\x00b\nc", "../../x",
    [], [1], [[1, 2], [3]], ["a", None], {}, {"a": 1}, {"a": {"b": []}},
]  # fmt: skip
RAW = [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 50_000, b'{"a":' * 50_000, b"1" * 5000, b"x,y\n1,2\n", None]
LINES = ["2020-13-45", "[[[[", "1e400", ".nan", "&a [*a]", "!!python/object:os.system x", "a: b", "=", "\x00"]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "sweep")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two variants with two seeds each, and their means."""
    jobs = [{"variant": name, "seed": seed} for name in ("baseline", "SEPA") for seed in (0, 1)]
    plan = {"title": "t", "baseline": {"variant": "baseline"}, "published": synthetic.PUBLISHED, "fixed": ["data=x"]}
    plan |= {"parallel": 1, "on_error": "stop", "started": "2026-11-20T09:00:00+0000"}
    return synthetic.write(tmp_path_factory.mktemp("good") / "s", jobs, lambda choice: 0.0, plan)


def places(node: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every place in nested containers; of a list the first two."""
    yield at
    keys = list(node) if isinstance(node, dict) else range(min(len(node), 2)) if isinstance(node, list) else ()
    for key in keys:
        yield from places(node[key], (*at, key))


def changed(node: Any, at: tuple, value: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return value
    node = copy.deepcopy(node)
    here = node
    for key in at[:-1]:
        here = here[key]
    here[at[-1]] = value
    return node


def mutations(good: Path) -> Iterator[tuple[Path, bytes | None]]:
    """A file of the folder and what stands in it instead; None: a folder of its name."""
    run = next(path for path in sorted(good.iterdir()) if path.is_dir())
    objects = [good / "sweep.json", *(run / f"{name}.json" for name in ("metrics", "status", "provenance"))]
    objects += sorted((run / "tables").glob("*.json"))
    for path in objects:
        content = json.loads(path.read_text())
        for at in places(content):
            for value in FOREIGN:
                yield path, json.dumps(changed(content, at, value)).encode()
    for networks in [*FOREIGN, *({"k": value} for value in FOREIGN)]:
        yield good / "cost.json", json.dumps({"networks": networks}).encode()
    for value in FOREIGN:
        yield run / ".lock", json.dumps({"pid": value, "host": whoami()["host"]}).encode()
    texts = [
        "config.yaml",
        "overrides.txt",
        "metrics.csv",
        "tables/test_000400.csv",
        "images/step_000400.png",
        ".lock",
    ]
    for path in [*objects, *(run / name for name in texts), good / "cost.json"]:
        for raw in RAW:
            yield path, raw
    for line in LINES:
        yield run / "overrides.txt", f"optim.lr={line}\n".encode()
        yield run / "metrics.csv", f"step,train/loss\n5,{line}\n10,0.5\n{line},1\n15,0.2\n".encode()
        yield run / "tables/test_000400.csv", f"class,IoU\n{line},{line}\n".encode()
        yield run / "config.yaml", f"seed: {line}\n{line}: 1\n? [1]\n: 2\n".encode()
    config = yaml.safe_load((run / "config.yaml").read_text())
    for at in places(config):
        for value in (None, 10**400, "abc", [1], {1: 2, "a": 3}):
            yield run / "config.yaml", yaml.safe_dump(changed(config, at, value)).encode()


def test_whatever_stands_in_a_sweeps_files_the_table_is_made_or_refused_in_a_sentence(good, tmp_path):
    """A sample of all mutations; what is in the table is the untouched runs' numbers."""
    todo = list(mutations(good))
    random.Random(len(todo)).shuffle(todo)
    expected = {run.folder.name: run.metrics["test/mIoU"] for run in collect(good).runs}
    work = tmp_path / "work"
    shutil.copytree(good, work)
    tables = 0
    for path, content in todo[:250]:
        place = work / path.relative_to(good)
        if content is None:
            place.unlink(missing_ok=True)
            place.mkdir()
        else:
            place.write_bytes(content)
        with contextlib.suppress(UserError):
            sweep = collect(work)
            table = make(sweep)
            for text in (formats.markdown, formats.latex, formats.csv_text, formats.json_text):
                atomic.write_text(tmp_path / "table", text(table))
            for run in sweep.runs:
                run.classes()
                run.curve("train/loss")
                found = run.metrics["test/mIoU"]
                assert found == expected[run.folder.name] or (place.name == "metrics.json" and 0 <= found <= 1)
            tables += 1
        cost.read(work / "cost.json")
        record.best(work)
        assert job.standing(work)
        assert isinstance(job.called_off(work, record.read(work)), str)
        with contextlib.suppress(DataError):  # a newer format
            record.write(work, {"title": "t"}, {})
        if place.is_dir():
            place.rmdir()
        for kept in work.glob("sweep.json*"):
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        place.unlink(missing_ok=True)
        for source in (path, good / "sweep.json"):
            if source.exists():
                shutil.copyfile(source, work / source.relative_to(good))
    assert tables > 150


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("provenance.json", {"data": {"dataset": "camvid"}, "git": ["a"], "versions": "b", "command": 3}),
        ("tables/test_000400.json", {"matrix": [[1, "x"], 3]}),
        ("tables/test_000400.json", {"matrix": 3}),
        ("images/step_000400.png", "no image"),
        ("metrics.csv", "step,train/loss\n1,inf\n2,nan\n1e400,1\n3,0.5\n"),
    ],
)
def test_a_foreign_file_leaves_figures_and_page_without_it(good, tmp_path, file, content):
    shutil.copytree(good, tmp_path / "s")
    for run in (tmp_path / "s").glob("variant=*"):
        (run / file).write_text(content if isinstance(content, str) else json.dumps(content))
    given = ["--no-cost", "--no-plots", "--output", str(tmp_path / "out")]
    command.summarise(command.arguments().parse_args([str(tmp_path / "s"), *given]))
    assert "<html" in (tmp_path / "out/report.html").read_text()


def test_a_factor_named_like_a_path_draws_beside_the_other_figures(folder):
    from seglab.report import plots

    for k in (1, 2):  # two numbers: the factor is part of a figure's name
        folder.run(f"{k}", factors={"../../lr": k, "tau": 3 - k})
    names = [name for name, _ in plots.fitting(make(collect(folder.path)))]
    assert names[:2] == ["swept_.._.._lr", "swept_tau"]


# A run's numbers


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"test/mIoU": 61.2}, "metrics.json: test/mIoU is 61.2 — expected a fraction from 0 to 1"),
        ({"test/mIoU": 1.0001}, "metrics.json: test/mIoU is 1.0001 — expected a fraction"),
        ({"test/mIoU": -0.1}, "metrics.json: test/mIoU is -0.1"),
        ({"test/mIoU": "0.5"}, 'metrics.json: test/mIoU is "0.5" — expected a fraction'),
        ({"test/mIoU": True}, "metrics.json: test/mIoU is true"),
        ({"test/mIoU": [0.5]}, "metrics.json: test/mIoU is [0.5]"),
        ({"test/mIoU": float("nan")}, "metrics.json: test/mIoU is NaN"),
        ({"val/ECE": 2}, "metrics.json: val/ECE is 2 — expected a fraction"),
        ({"best/mIoU": 35.0}, "metrics.json: best/mIoU is 35.0"),
        ({"test/IoU": [0.5, None, 1.5]}, "metrics.json: test/IoU holds 1.5 — expected a fraction"),
        ({"test/Acc": "abc"}, 'metrics.json: test/Acc is "abc"'),
        ({"test/loss": "abc"}, 'metrics.json: test/loss is "abc" — expected a finite number'),
        ({"val/NLL": float("inf")}, "metrics.json: val/NLL is Infinity — expected a finite number"),
        ({"val/coarse": float("inf")}, "metrics.json: val/coarse is Infinity"),
        ({"parameters": 10**400}, "metrics.json: parameters is 1000"),
        ({"parameters": -1}, "metrics.json: parameters is -1 — expected a number, 0 or more"),
    ],
)
def test_a_run_with_a_number_that_cannot_be_is_left_out_by_name(folder, metrics, said):
    folder.rows({"a": [0.5, 0.6]})
    folder.run("wrong", factors={"variant": "a"}, seed=2, metrics=metrics)
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["variant=a,seed=0", "variant=a,seed=1"]
    (problem,) = sweep.problems
    assert problem.startswith(f"wrong: {said}")
    assert problem.endswith("left out")


@pytest.mark.parametrize(
    "metrics",
    [
        {"test/loss": 7.5, "val/NLL": 3, "test/mIoU": 1, "val/mIoU": 0.0, "test/ECE": None},
        {"test/reliability": {"count": [1]}, "context_gap/coarse": -0.5, "tau": "free text", "test/IoU": [None, 0, 1]},
    ],
)
def test_what_is_no_fraction_may_have_any_size(folder, metrics):
    folder.run("a", metrics=metrics)
    assert collect(folder.path).problems == []


def test_a_metric_that_is_no_number_is_named_with_its_value(folder):
    folder.rows({"a": [0.5]})
    folder.run("text", factors={"variant": "b"}, metrics={"val/coarse": "x", "val/dice": 2})
    folder.run("number", factors={"variant": "c"}, metrics={"val/coarse": 3})
    notes = make(collect(folder.path), "val/coarse").notes
    assert 'text: metrics.json: val/coarse is "x" — expected a number: left out' in notes


def test_nothing_left_is_one_sentence_that_names_what_was_left_out(folder):
    folder.run("a", 61.0)
    with pytest.raises(DataError, match=r"(?s)no finished run.*a: metrics\.json: test/mIoU is 61\.0"):
        collect(folder.path)


def test_runs_without_a_test_are_told_which_metric_they_have(folder):
    run = folder.run("a", metrics={"best/mIoU": 0.4})
    metrics = json.loads((run / "metrics.json").read_text())
    dump(run / "metrics.json", {key: value for key, value in metrics.items() if not key.startswith("test/")})
    with pytest.raises(
        ConfigError, match=r"no run has a number under 'test/mIoU'.*--metric best/mIoU or --metric val/mIoU"
    ):
        make(collect(folder.path))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("status.json", {"status": "done", "seconds": "long"}, 'status.json: seconds is "long" — expected a number'),
        ("provenance.json", {"data": {"dataset": ["scenes"]}}, "provenance.json does not name the data set"),
        ("provenance.json", {"data": {"dataset": "scenes", "fingerprint": [1]}}, "fingerprint is [1]"),
    ],
)
def test_a_run_with_foreign_facts_is_left_out_by_name(folder, file, content, said):
    folder.rows({"a": [0.5]})
    dump(folder.run("wrong", factors={"variant": "a"}, seed=1) / file, content)
    (problem,) = collect(folder.path).problems
    assert problem.startswith("wrong: ")
    assert said in problem


@pytest.mark.parametrize(
    "content", ["a: &a [*a]\n", "a: &a {x: *a}\n", "[" * 20_000, None], ids=["list", "loop", "deep", "bomb"]
)
def test_a_configuration_that_never_ends_is_no_crash(folder, content):
    if content is None:
        lines = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
        content = "\n".join(["a0: &a0 [x]", *lines])
    folder.run("good")
    (folder.run("bad", seed=1) / "config.yaml").write_text(f"seed: 1\n{content}")
    (problem,) = collect(folder.path).problems
    assert problem.startswith("bad: config.yaml")


# The data


def on(folder: Folder, name: str, fingerprint: str | None, seed: int, started: str = "2026-01-01") -> None:
    run = folder.run(name, 0.1 * (seed + 1), factors={"variant": "a"}, seed=seed)
    dump(run / "provenance.json", {"started": started, "data": {"dataset": "scenes", "fingerprint": fingerprint}})


def test_runs_on_other_files_than_most_are_left_out_by_name(folder):
    for seed, fingerprint in enumerate(["new", "old", "old"]):
        on(folder, f"run{seed}", fingerprint, seed, started=f"2026-0{9 - seed}-01")
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["run1", "run2"]
    assert sweep.problems == [
        "2 different sets of files under the data set's name scenes: the table is of the one that 2 of 3 runs saw (fingerprint old)",
        "run0: saw other files (fingerprint new): left out",
    ]
    assert make(sweep).rows[0].values == pytest.approx((0.2, 0.3))


def test_of_as_many_runs_on_either_files_the_newest_decides(folder):
    on(folder, "before", "old", 0, "2026-01-01")
    on(folder, "after", "new", 1, "2026-02-01")
    assert [run.folder.name for run in collect(folder.path).runs] == ["after"]


def test_a_run_on_other_files_does_not_take_the_place_of_the_same_choice_and_seed(folder):
    on(folder, "a", "old", 0)
    on(folder, "b", "old", 1)
    on(folder, "again", "new", 0, "2026-09-01")
    assert [run.folder.name for run in collect(folder.path).runs] == ["a", "b"]


def test_a_run_that_does_not_say_its_files_stays_and_is_named(folder):
    on(folder, "a", "old", 0)
    on(folder, "silent", None, 1)
    sweep = collect(folder.path)
    assert len(sweep.runs) == 2
    assert sweep.problems == ["silent: does not say which files it saw; taken for those of the others"]


# sweep.json


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("baseline", 5), ("baseline", {"variant": ["a"]}), ("published", "x"), ("published", {"values": [1]}),
        ("published", {"values": {"a": "many"}}), ("published", {"source": 3, "values": {}}), ("title", ["x"]),
        ("parallel", "two"), ("parallel", 0), ("on_error", "panic"), ("started", 3), ("fixed", "data=x"),
    ],
)  # fmt: skip
def test_what_a_plan_says_in_a_wrong_way_is_named_and_not_used(folder, key, value):
    folder.rows({"a": [0.5, 0.6]})
    folder.plan(**{key: value})
    sweep = collect(folder.path)
    (problem,) = sweep.problems
    assert problem.startswith(f"sweep.json: {key} is {json.dumps(value)} — expected ")
    assert make(sweep).rows[0].mean == pytest.approx(0.55)
    assert key not in record.read(folder.path)
    assert job.standing(folder.path).startswith("2 done")
    assert job.called_off(folder.path, record.read(folder.path)) == ""


@pytest.mark.parametrize(
    "about",
    [{}, {"factors": None}, {"factors": [1]}, {"factors": {"variant": {"a": 1}}}, {"factors": {"variant": [1]}}],
)
def test_a_job_without_factors_is_left_out_by_name(folder, about):
    folder.rows({"a": [0.5]})
    folder.run("wrong", 0.9, seed=1)
    folder.plan(jobs={"wrong": about})
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["variant=a,seed=0"]
    (problem,) = sweep.problems
    assert problem.startswith("wrong: sweep.json has ")
    assert list(record.read(folder.path)["jobs"]) == ["variant=a,seed=0"]


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", ""])
def test_a_job_is_a_folder_of_the_sweep_and_nothing_else(folder, name):
    folder.rows({"a": [0.5]})
    folder.plan(jobs={name: {"factors": {"variant": "b"}}})
    assert "expected the name of a folder beside it" in collect(folder.path).problems[0]
    assert name not in record.read(folder.path)["jobs"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"format": 2}, "format 2 .*pip install"),
        ({"format": "x"}, 'format "x".*delete'),
        ({"format": True}, "format true.*delete"),
        ({"jobs": {"a": {}}}, "no job that can be used.*delete"),
    ],
)
def test_a_plan_of_which_nothing_can_be_used_is_refused(folder, content, said):
    folder.run("a")
    dump(folder.path / "sweep.json", content)
    with pytest.raises(DataError, match=rf"sweep\.json.* {said}"):
        collect(folder.path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        "null",
        '{"jobs": [1]}',
        '{"jobs": {"a": 1}}',
        '{"jobs": {"a": {}}}',
        '{"baseline": 5}',
        '{"format": "x"}',
        b"\xff",
    ],
)
def test_a_sweep_goes_on_over_a_foreign_plan_and_keeps_it(folder, caplog, content):
    path = folder.path / "sweep.json"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    record.write(folder.path, {"title": "t"}, {"new": {"factors": {"tau": 1}}})
    assert list(record.read(folder.path)["jobs"]) == ["new"]
    (kept,) = folder.path.glob("sweep.json-*")
    assert kept.read_bytes() == content
    assert kept.name in caplog.text


def test_a_newer_seglabs_plan_is_not_written_over(folder):
    dump(folder.path / "sweep.json", {"format": 2, "jobs": {}})
    with pytest.raises(DataError, match=r"format 2.*hydra\.sweep\.dir"):
        record.write(folder.path, {}, {})
    assert json.loads((folder.path / "sweep.json").read_text())["format"] == 2


def test_a_plan_that_is_understood_is_no_copys_cause(folder):
    folder.rows({"a": [0.5]})
    record.write(folder.path, {"title": None, "baseline": None}, {"new": {"factors": {"tau": 1}}})
    assert list(folder.path.glob("sweep.json-*")) == []
    assert list(record.read(folder.path)["jobs"]) == ["variant=a,seed=0", "new"]


@pytest.mark.parametrize(
    ("key", "value"), [("baseline", "linear"), ("published", {"values": {"a": "x"}}), ("title", ["t"])]
)
def test_a_sweep_that_would_write_such_a_plan_is_refused_by_its_key(tmp_path, key, value):
    with pytest.raises(ConfigError, match=rf"^sweep\.{key}=.* — expected"):
        record.write(tmp_path, {key: value}, {})
    assert not (tmp_path / "sweep.json").exists()


@pytest.mark.parametrize("value", ["abc", [1], {"a": 1}, True, float("nan"), None])
@pytest.mark.parametrize("key", ["status", "step", "max_steps", "seconds", "best", "ended", "error"])
def test_a_running_sweep_reads_past_a_foreign_status(folder, key, value):
    folder.rows({"a": [0.5, 0.6]})
    folder.plan(parallel=2, on_error="stop", started="2026-01-01T00:00:00+0000")
    for status in ("done", "interrupted", "failed"):
        about = {
            "status": status,
            "step": 5,
            "max_steps": 10,
            "seconds": 60,
            "ended": "2025",
            "best": {"val/mIoU": 0.5},
        }
        dump(folder.path / "variant=a,seed=1/status.json", {**about, key: value})
        assert "1 done" in job.standing(folder.path) or "2 done" in job.standing(folder.path)
        assert isinstance(job.called_off(folder.path, record.read(folder.path)), str)
        assert record.seconds_left(folder.path, ["variant=a,seed=1"], 1) is not None

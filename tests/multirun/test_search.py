"""Searches for hyper-parameters: real ones of a few steps, and the course of one with runs that are made up."""

import json
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from seglab import cli  # noqa: E402
from seglab.errors import ConfigError  # noqa: E402
from seglab.multirun import findings, record, search, study  # noqa: E402
from seglab.multirun.space import space  # noqa: E402
from seglab.multirun.sweeper import SweepFailed  # noqa: E402
from seglab.runs import atomic  # noqa: E402
from seglab.scores import Known, Score  # noqa: E402
from tests.commands import run  # noqa: E402
from tests.test_train import TINY  # noqa: E402

# --- the grammar


def of(text):
    return next(iter(space({}, [text]).parameters.values()))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("choice(5,10,15)", CategoricalDistribution(["5", "10", "15"])),
        ("5,10,15", CategoricalDistribution(["5", "10", "15"])),
        ("shuffle(choice(a,b,c))", CategoricalDistribution(["a", "b", "c"])),
        ("range(4,17,4)", IntDistribution(4, 16, step=4)),
        ("range(17,3,-4)", IntDistribution(5, 17, step=4)),
        ("range(3)", IntDistribution(0, 2)),
        ("tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
        ("range(0.1,0.55,0.1)", FloatDistribution(0.1, 0.5, step=0.1)),
        ("interval(0.1,2)", FloatDistribution(0.1, 2)),
        ("tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(8,64))", IntDistribution(8, 64)),
        ("tag(int,log,interval(7.5,64.5))", IntDistribution(8, 64, log=True)),
    ],
)
def test_a_range_means_to_optuna_what_it_means_to_hydra(written, expected):
    assert of(f"decoder.width={written}").distribution == expected


def test_what_is_not_a_range_is_fixed_and_the_command_line_wins_over_the_file():
    found = space(
        {"classifier.tau": "1,5", "seed": "0,1"}, ["classifier=cac", "classifier.tau=interval(1,9)", "seed=3"]
    )
    assert found.fixed == ["seed=3", "classifier=cac"]
    assert found.distributions == {"classifier.tau": FloatDistribution(1, 9)}


def test_a_value_reads_the_same_in_table_folder_and_command_and_stays_within_its_bounds():
    rate = of("lr=tag(log,interval(0.00123456123,0.01))")
    assert rate.value(0.0031622776601683794) == 0.00316228
    assert rate.override(0.0031622776601683794) == "lr=0.00316228"
    assert rate.value(rate.distribution.low) == 0.00123456123, "six digits would be below the bound"


def test_a_choice_keeps_its_type_and_its_quotes():
    choice = of("+key=choice(5,1e1,true,'a b',[1,2])")
    assert choice.name == "key"
    assert [choice.value(text) for text in choice.distribution.choices] == [5, 10.0, True, r"a\ b", "[1,2]"]
    assert choice.override(r"a\ b") == r"+key=a\ b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classifier=cac"], "nothing to search"),
        (["lr=interval(2,1)"], "no values"),
        (["lr=range(5,5)"], "no values"),
        (["lr=range(5,9,0)"], "no values"),
        (["lr=tag(int,interval(0.2,0.8))"], "no values"),
        (["lr=tag(log,interval(0,1))"], "above zero"),
        (["lr=tag(log,range(1,9,2))"], "step 1"),
        (["lr=tag(lgo,interval(1,2))"], "lgo.*expected log"),
        (["lr=tag(log,choice(1,2))"], "expected log or int"),
        (["lr=interval(0,1)", "seed=0,1,2"], "luckiest seed"),
    ],
)
def test_a_space_that_means_nothing_is_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        space({}, arguments)


# --- the course, with made-up runs


MIOU = Score("mIoU", "max", "percent")
SETTINGS = {
    "trials": 4, "metric": "val/mIoU", "direction": None, "storage": None, "pruner": None,
    "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 0},
}  # fmt: skip


class Runs:
    """A launcher whose runs end as they are told: a value, ``failed``, ``pruned``, ``stopped`` or an error."""

    def __init__(self, folder, *endings, on_error="continue", trials=4, text="x=interval(0,1)", score=MIOU):
        self.endings, self.launched = list(endings), []
        settings = {**SETTINGS, "trials": trials}
        about = {"on_error": on_error, "started": ""}
        self.search = search.Search(space({}, ["classifier=cac", text]), folder, settings, 0, score, about)
        folder.mkdir(exist_ok=True)

    def __call__(self, parallel=1):
        self.study = study.open_study(self.search.folder, None, direction=study.DIRECTIONS[self.search.score.direction])
        study.check_space(self.study, self.search.space, self.search.folder)
        return search.proceed(self.search, self.study, parallel, self.launch)

    def launch(self, trials):
        self.launched += [trial.number for trial in trials]
        return [self.end(trial, self.endings.pop(0) if self.endings else 0.5) for trial in trials]

    def end(self, trial, how):
        path = self.search.run_dir(trial)
        if isinstance(how, Exception):
            return how
        if isinstance(how, float) or how == "pruned":
            live = optuna.trial.Trial(self.study, trial._trial_id)
            for step, value in ((2, 0.1), (4, how if isinstance(how, float) else 0.2), (6, 0.15)):
                live.report(value, step)
            atomic.write_json(path / "metrics.json", {"step": 6})
        status = {"failed": "failed", "pruned": "pruned", "stopped": "preempted"}.get(how, "done")
        atomic.write_json(path / "status.json", {"status": status, "exit_code": 1, "error": "ValueError: made up"})
        return ValueError("made up") if how == "failed" else None

    def states(self):
        return [trial.state.name for trial in self.study.get_trials()]


def test_a_trial_is_worth_its_best_validation_and_a_failed_one_stops_nothing(tmp_path):
    runs = Runs(tmp_path / "s", 0.4, "failed", "pruned", 0.7)
    failures = runs()
    assert runs.states() == ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    assert [trial.value for trial in runs.study.get_trials()] == [0.4, None, 0.15, 0.7]
    assert [(failure.trial, failure.error) for failure in failures] == [(1, "ValueError: made up")]
    search.sum_up(runs.search, runs.study, failures, "best/mIoU")
    plan = record.read(tmp_path / "s")["jobs"]
    assert [job["factors"]["trial"] for job in plan.values()] == [0, 1, 2, 3]
    assert all((tmp_path / "s" / name).is_dir() for name in plan)


def test_enough_trials_are_enough_and_more_may_be_asked_for(tmp_path):
    Runs(tmp_path / "s")()
    again = Runs(tmp_path / "s")
    again()
    assert again.launched == []
    more = Runs(tmp_path / "s", trials=6)
    more()
    assert more.launched == [4, 5]


def test_a_search_that_was_stopped_goes_on_with_the_same_trial_and_ends_like_one_that_was_not(tmp_path):
    stopped = Runs(tmp_path / "s", 0.4, "stopped")
    stopped()
    assert stopped.states() == ["COMPLETE", "RUNNING"]
    after = Runs(tmp_path / "s", 0.6)
    after()
    assert after.launched == [1, 2, 3]
    whole = Runs(tmp_path / "w", 0.4, 0.6)
    whole()
    asked = [trial.params for trial in whole.study.get_trials()]
    assert [trial.params for trial in after.study.get_trials()] == asked
    assert len({trial["x"] for trial in asked}) == 4, "no trial is suggested twice"


def test_a_trial_that_ended_unseen_is_told_and_one_that_is_running_elsewhere_is_left_alone(tmp_path):
    first = Runs(tmp_path / "s", "stopped")
    first()
    trial = first.study.get_trials()[0]
    first.end(trial, 0.9)  # its process outlived the search's
    after = Runs(tmp_path / "s", trials=1)
    after()
    assert after.launched == []
    assert after.study.best_value == 0.9

    held = Runs(tmp_path / "h", "stopped", trials=2)
    held()
    from seglab.runs.lock import acquire

    acquire(held.search.run_dir(held.study.get_trials()[0]))
    beside = Runs(tmp_path / "h", trials=2)
    beside()
    assert beside.launched == [1]


def test_a_search_in_which_nothing_works_ends_early_and_its_failures_do_not_count(tmp_path):
    runs = Runs(tmp_path / "s", *["failed"] * 20, trials=10)
    failures = runs()
    assert len(failures) == search.MOST_FAILURES
    with pytest.raises(SweepFailed, match="none came to a result"):
        search.sum_up(runs.search, runs.study, failures, "best/mIoU")
    mended = Runs(tmp_path / "s", trials=3)
    mended()
    assert mended.states() == ["FAIL"] * 3 + ["COMPLETE"] * 3


def test_a_run_that_never_began_is_a_failure_and_on_error_stop_stops(tmp_path):
    runs = Runs(tmp_path / "s", 0.5, ConfigError("no such data"), on_error="stop")
    failures = runs()
    assert runs.states() == ["COMPLETE", "FAIL"]
    with pytest.raises(SweepFailed, match="no such data") as caught:
        search.sum_up(runs.search, runs.study, failures, "best/mIoU")
    assert caught.value.exit_code == ConfigError.exit_code


def test_what_is_fixed_may_be_changed_between_trials_only_with_a_warning(caplog):
    before = ["classifier=cac", "search.trials=3", "trainer.max_steps=100"]
    search.compare(before, ["classifier=cac", "search.trials=9", "launcher=joblib", "trainer.max_steps=100"])
    assert not caplog.records
    search.compare(before, ["classifier=cac", "trainer.max_steps=200"])
    assert "trainer.max_steps=100, trainer.max_steps=200" in caplog.text
    search.compare(None, before)


def test_trials_come_in_batches_as_large_as_the_launcher(tmp_path):
    runs = Runs(tmp_path / "s", trials=5)
    sizes = []
    launch = runs.launch
    runs.launch = lambda trials: sizes.append(len(trials)) or launch(trials)
    runs(parallel=2)
    assert sizes == [2, 2, 1]


def test_another_space_or_direction_in_the_same_folder_is_refused(tmp_path):
    Runs(tmp_path / "s", text="x=choice(1,2)")()
    with pytest.raises(ConfigError, match="choices must stay the same.*hydra.sweep.dir"):
        Runs(tmp_path / "s", text="x=choice(1,2,3)")()
    with pytest.raises(ConfigError, match="searches x, not y"):
        Runs(tmp_path / "s", text="y=interval(0,1)")()
    with pytest.raises(ConfigError, match="direction=minimize"):
        study.open_study(tmp_path / "s", None, direction="minimize")


def test_a_trial_that_was_killed_while_it_was_asked_for_is_given_up(tmp_path):
    runs = Runs(tmp_path / "s", trials=1)
    opened = study.open_study(tmp_path / "s", None, direction="maximize")
    opened.ask()
    runs()
    assert runs.states() == ["FAIL", "COMPLETE"]


def test_a_journal_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / study.JOURNAL).write_text("not json\nnot json\n")
    with pytest.raises(ConfigError, match=r"search\.journal cannot be opened"):
        study.open_study(tmp_path, None, direction="maximize")


def test_what_was_found_is_written_down_with_its_command_and_what_mattered(tmp_path):
    runs = Runs(tmp_path / "s", *[0.3 + 0.01 * k for k in range(10)], "failed", "pruned", trials=12)
    runs()
    findings.write(runs.study, runs.search)
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert found["best"]["trial"] == 9
    assert found["best"]["value"] == pytest.approx(0.39)
    value = found["best"]["parameters"]["x"]
    assert found["best"]["command"] == f"python -m seglab.train classifier=cac x={value}"
    assert found["importance"] == {"x": 1.0}
    assert findings.counted([trial["state"] for trial in found["trials"]]) == "10 complete, 1 pruned, 1 failed"
    assert (tmp_path / "s/search.png").read_bytes()[1:4] == b"PNG"


def test_the_command_has_nothing_of_the_search_and_is_quoted():
    fixed = [
        "search=optuna",
        "search.trials=3",
        "+search.pruner={a: 1}",
        "launcher=joblib",
        "sweep.on_error=stop",
        "data=scenes",
    ]
    assert findings.command([*fixed, "augment.crop=[48, 64]"], ["a.b=1"]) == (
        "python -m seglab.train data=scenes 'augment.crop=[48, 64]' a.b=1"
    )


def test_the_command_line_composes_with_the_search_and_its_callback():
    with initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
        cfg = compose("train", ["search=optuna", "callbacks=minimal", "search.metric=val/loss"])
        pruning = OmegaConf.to_container(cfg.callbacks.pruning, resolve=True)
    assert pruning["pruner"]["_target_"] == "optuna.pruners.MedianPruner"
    assert pruning["metric"] == "val/loss"
    assert cfg.test is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"direction": "upwards"}, "search.direction=upwards — expected maximize or minimize"),
        ({"trials": 0}, "search.trials=0"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        search.check({"on_error": "stop", "variants": {}}, {**SETTINGS, **change})


def test_the_metric_is_the_headline_in_its_direction_unless_told_otherwise():
    semantic = search.known_scores(cli.compose("train", ["run_dir=.", "metrics=full", "classifier=cac"]))
    assert search.searched(semantic, None, None) == ("val/mIoU", MIOU)
    assert search.searched(semantic, "val/NLL", None) == ("val/NLL", Score("NLL", "min", "nats"))
    assert search.searched(semantic, "val/distill", "minimize")[1].lower
    category = search.known_scores(cli.compose("train", ["run_dir=.", "task=classification"]))
    assert search.searched(category, None, None) == ("val/top1_error", Score("top1_error", "min", "percent"))


@pytest.mark.parametrize(
    ("metric", "direction", "said"),
    [
        ("val/loss", "maximize", "the worst: less of loss is better — set search.direction=minimize, or null"),
        (None, "minimize", "direction=minimize of val/mIoU .* set search.direction=maximize"),
        ("val/mine", None, "search.metric=val/mine: .* set search.direction=maximize or minimize"),
    ],
)
def test_a_direction_that_contradicts_the_score_or_is_missing_is_refused(metric, direction, said):
    known = Known(MIOU, {"mIoU": MIOU, "loss": Score("loss", "min")})
    with pytest.raises(ConfigError, match=said):
        search.searched(known, metric, direction)
    assert search.searched(known, "val/mine", "minimize") == ("val/mine", Score("mine", "min"))


def test_a_table_of_the_trials_is_of_the_best_where_the_checkpoints_monitor_it():
    def of(metric, **node):
        return search.table_metric({"callbacks": {"checkpoints": node}}, MIOU, metric)

    assert of("val/mIoU", monitor=None) == of("val/mIoU", monitor="val/mIoU", best=True) == "best/mIoU"
    assert of("val/loss", monitor=None) == "val/loss"
    assert of("val/mIoU", monitor=None, best=False) == "val/mIoU"


def test_a_search_for_less_finds_the_least(tmp_path):
    # Below what every run reports besides.
    runs = Runs(tmp_path / "s", 0.09, 0.02, 0.05, trials=3, score=Score("error", "min", "percent"))
    runs()
    findings.write(runs.study, runs.search)
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert (found["best"]["trial"], found["direction"], found["unit"]) == (1, "minimize", "percent")
    assert findings.text(found["best"]["value"], found) == "2.00 %"


def test_a_missing_optuna_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'seglab\[search\]'"):
        study.require()


# --- real runs


def command(*overrides, cwd, check=True):
    return run(
        "search=optuna", "classifier=cac", *TINY, "callbacks=minimal",
        "optim.optimizer.lr=tag(log,interval(1e-4,1e-2))", "classifier.tau=choice(5,15)", *overrides,
        cwd=cwd, check=check,
    )  # fmt: skip


def trials(folder):
    return sorted(path for path in folder.glob("trial=*"))


def test_a_search_trains_its_trials_prunes_goes_on_where_it_was_stopped_and_runs_nothing_twice(tmp_path):
    folder = tmp_path / "s"
    common = ["search.trials=2", "hydra.sweep.dir=s"]
    # The first trial is stopped before its second validation.
    stopped = command(*common, "+callbacks.stop={_target_: tests.stopper.Stop, step: 3}", cwd=tmp_path, check=False)
    assert stopped.returncode == 143, stopped.stderr[-3000:]
    [first] = trials(folder)
    assert record.state(first) == "stopped"

    # It goes on from its checkpoint and is not asked again: at its end nothing is left to prune. The second one is.
    strict = "+search.pruner={_target_: optuna.pruners.ThresholdPruner, lower: 0.99}"
    done = command(*common, strict, cwd=tmp_path)
    assert trials(folder)[0] == first
    status = [json.loads((path / "status.json").read_text()) for path in trials(folder)]
    assert [each["status"] for each in status] == ["done", "pruned"]
    assert json.loads((first / "provenance.json").read_text())["earlier"], "it was resumed, not begun again"
    assert status[1]["step"] == 2
    metrics = json.loads((trials(folder)[1] / "metrics.json").read_text())
    assert metrics["step"] == 2
    assert metrics["best/mIoU"] == pytest.approx(metrics["val/mIoU"])
    assert (trials(folder)[1] / "checkpoints/best.ckpt").is_file()

    found = json.loads((folder / "search.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["complete", "pruned"]
    assert found["best"]["command"] in done.stdout
    assert "optim.optimizer.lr=" in found["best"]["command"]
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert set(jobs) == {path.name for path in trials(folder)}

    before = {path: path.stat().st_mtime_ns for path in folder.glob("trial=*/**/*")}
    command(*common, strict, cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trial=*/**/*")} == before

"""The jobs that a command means."""

import pytest
from hydra import compose, initialize_config_dir

from seglab import cli
from seglab.errors import ConfigError
from seglab.multirun import plan


def jobs(arguments, params=None, variants=None):
    with initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
        found = plan.axes(params or {}, arguments)
        return plan.jobs(found, variants or {}, lambda overrides: compose("train", overrides=overrides))


def names(arguments, **given):
    return [job.name for job in jobs(arguments, **given)]


def test_every_combination_is_a_job_and_the_first_seed_comes_first():
    found = jobs(["seed=0,1", "classifier=linear,cosine"])
    assert [job.factors for job in found] == [
        {"classifier": "linear", "seed": 0},
        {"classifier": "cosine", "seed": 0},
        {"classifier": "linear", "seed": 1},
        {"classifier": "cosine", "seed": 1},
    ]


def test_values_are_numbers_where_they_are_written_as_numbers():
    found = jobs(["classifier=cac", "classifier.tau=5,1e1", "classifier.detach_means=true,false"])
    assert [job.factors["classifier.tau"] for job in found[::2]] == [5, 10.0]
    assert [job.factors["classifier.detach_means"] for job in found[:2]] == [True, False]


def test_the_command_line_replaces_what_the_file_varies():
    found = jobs(["classifier=cac", "classifier.tau=7"], params={"classifier.tau": "1,5,15", "seed": "0,1"})
    assert [job.factors for job in found] == [{"classifier.tau": 7, "seed": 0}, {"classifier.tau": 7, "seed": 1}]


def test_a_variant_is_a_row_with_all_its_overrides_and_wins_over_what_is_fixed():
    rows = {"all": [], "without": ["loss.gt.weight=0"], "cac": ["classifier=cac", "loss.gt.weight=2"]}
    found = jobs(["classifier=ssa", "loss.gt.weight=3"], variants=rows)
    assert [job.factors["variant"] for job in found] == ["all", "without", "cac"]
    assert [job.config["loss"]["gt"]["weight"] for job in found] == [3, 0, 2]
    assert [job.config["classifier"]["_target_"].rsplit(".", 1)[1] for job in found] == ["SSA", "SSA", "CAC"]


def test_a_folder_is_named_by_choices_and_stays_the_same_where_only_the_place_or_the_speed_changes():
    base = names(["classifier=linear,cac"])
    assert base[0].startswith("classifier=linear,seed=0-")
    for other in ["data.num_workers=3", "logger=none", "resume=auto", "hydra.job.chdir=false", "sweep.title=x"]:
        assert names(["classifier=linear,cac", other]) == base, other


@pytest.mark.parametrize("other", ["optim.optimizer.lr=0.5", "trainer.max_steps=3", "data.root=/x", "callbacks=ema"])
def test_a_folder_is_another_one_where_the_result_may_be_another_one(other):
    assert not set(names(["classifier=linear,cac", other])) & set(names(["classifier=linear,cac"]))


def test_one_seed_and_several_seeds_share_the_folder_of_the_common_one():
    one = names(["classifier=linear,cac"])
    assert one == names(["classifier=linear,cac", "seed=0"])
    assert set(one) < set(names(["classifier=linear,cac", "seed=0,1,2"]))


def test_long_and_odd_choices_make_a_legal_name():
    name = plan.safe_name("a=/x y/'z'," + "b" * 300)
    assert len(name) <= 100
    assert "/" not in name
    assert " " not in name
    assert plan.safe_name("b" * 300) != plan.safe_name("b" * 301)


def test_the_sweeps_folder_is_the_same_for_more_seeds_and_values_and_another_for_another_question():
    def name(*arguments, ablation=None, params=None):
        return plan.sweep_name(plan.axes(params or {}, list(arguments)), params or {}, ablation, "scenes")

    assert name("classifier=a,b") == name("classifier=a,b,c", "seed=0,1,2") == "classifier-scenes"
    assert name("classifier=a,b", "sweep.dry_run=true", "logger=wandb") == "classifier-scenes"
    assert name("classifier=a,b", "trainer.max_steps=3") != name("classifier=a,b", "trainer.max_steps=4")
    tau = {"classifier.tau": "1,5", "seed": "0,1"}
    assert name("ablation=t", ablation="cac_tau", params=tau) == "cac_tau-scenes"
    assert name("ablation=t", "classifier.tau=3", ablation="cac_tau", params=tau) == "cac_tau-scenes"
    assert name("ablation=t", "decoder=fpn,mlp", ablation="cac_tau", params=tau) == "cac_tau+decoder-scenes"


def test_a_range_needs_a_search():
    with pytest.raises(ConfigError, match="search=optuna"):
        plan.axes({}, ["classifier.tau=interval(1,2)"])


def test_an_override_that_does_not_fit_names_the_job():
    with pytest.raises(Exception, match=r"the job classifier=linear.*\n?.*tau"):
        jobs(["classifier=cac,linear", "classifier.tau=3"])


def test_a_variant_that_sets_what_is_varied_is_refused_since_its_row_would_be_another_ones():
    with pytest.raises(ConfigError, match="variant linear sets classifier"):
        jobs(["classifier=cac,ssa"], variants={"linear": ["classifier=linear"], "all": []})

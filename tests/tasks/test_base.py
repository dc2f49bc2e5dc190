"""A task owns its network, losses, metrics and headline; what is not its own is refused."""

import pytest

from seglab import build
from seglab.errors import ConfigError
from seglab.tasks import Semantic, Task
from tests.conftest import options


@pytest.mark.parametrize("option", options("task"))
def test_every_task_says_what_it_needs_and_what_it_is_about(option, compose):
    kind = build.task_class(compose("train", [f"task={option}"]))
    assert issubclass(kind, Task)
    assert kind.NEEDS
    assert kind.headline.direction in ("max", "min")
    assert not set(kind.PARTS) & set(kind.TRAINING_PARTS)
    assert kind.headline.name in {
        score.name for node in compose("train", [f"task={option}"])["metrics"].values() for score in scores_of(node)
    }


def scores_of(node):
    import pkgutil

    return pkgutil.resolve_name(node["_target_"]).scores


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (None, "task is None"),
        ({"_target_": "seglab.tasks.Nothing"}, "task._target_=seglab.tasks.Nothing"),
        ({"_target_": "seglab.models.segmenter.Segmenter"}, "derived from seglab.tasks.Task"),
    ],
)
def test_what_is_no_task_is_refused(node, said):
    with pytest.raises(ConfigError, match=said):
        build.task_class({"task": node})


def test_a_node_that_no_part_of_the_task_reads_is_refused(tmp_path):
    from seglab import cli
    from seglab.train import fit

    cfg = cli.compose("train", [f"run_dir={tmp_path}"])
    cfg["pose"] = {"_target_": "seglab.backbones.Timm", "name": "resnet18"}
    with pytest.raises(ConfigError, match="pose"):
        fit(cfg, tmp_path)


def test_the_headline_of_segmentation_is_the_mean_iou():
    assert (Semantic.headline.name, Semantic.headline.lower, Semantic.headline.unit) == ("mIoU", False, "percent")

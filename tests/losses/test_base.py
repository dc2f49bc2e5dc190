from __future__ import annotations

import pytest
import torch

from seglab.errors import ConfigError
from seglab.losses import Criterion, CrossEntropy, Term
from seglab.losses.schedules import LinearRamp
from seglab.types import Batch, Output


class Constant(Term):
    def __init__(self, value: float, weight=1.0) -> None:
        super().__init__(("logits",), weight)
        self.value = value
        self.calls = 0

    def forward(self, output: Output, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return output.logits.sum() * 0 + self.value


@pytest.fixture
def output() -> Output:
    return Output(logits=torch.zeros(1, 2, 1, 1, requires_grad=True))


BATCH = Batch(image=torch.zeros(1, 3, 1, 1), label=torch.zeros(1, 1, 1, dtype=torch.int64), names=("",))


def test_the_total_is_weighted_and_the_parts_are_not(output):
    losses = Criterion({"a": Constant(2.0, 10), "b": Constant(3.0, 0.4)})(output, BATCH)
    assert losses.total.item() == pytest.approx(21.2)
    assert {name: value.item() for name, value in losses.parts.items()} == {"a": 2, "b": 3}
    assert losses.total.requires_grad
    assert not losses.parts["a"].requires_grad


def test_a_term_of_weight_zero_is_never_computed(output):
    idle = Constant(1.0, 0)
    criterion = Criterion({"a": Constant(2.0), "idle": idle})
    assert criterion(output, BATCH).parts.keys() == {"a"}
    assert idle.calls == 0


def test_a_scheduled_weight_follows_the_step(output):
    criterion = Criterion({"a": Constant(2.0, LinearRamp(0.0, 1.0, steps=10))})
    assert [criterion(output, BATCH, step).total.item() for step in (0, 5, 10)] == [0, 1, 2]


def test_a_branch_that_no_one_publishes_is_named_with_the_legal_ones():
    criterion = Criterion({"gt": CrossEntropy("oracle")})
    with pytest.raises(ConfigError, match=r"loss\.gt .*'oracle'.*one of logits.*~loss\.gt"):
        criterion.check(Output.branches())


def test_an_empty_branch_and_missing_labels_are_named(output):
    with pytest.raises(ConfigError, match="'aux'"):
        CrossEntropy("aux")(output, BATCH)
    with pytest.raises(ConfigError, match="without labels"):
        CrossEntropy()(output, Batch(image=BATCH.image, label=None, names=("",)))


def test_a_criterion_without_active_terms_is_refused():
    with pytest.raises(ConfigError, match="no loss term"):
        Criterion({"a": Constant(1.0, 0)})

"""Schedules against their closed forms, written out here step by step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seglab.errors import ConfigError
from seglab.optim import constant, cosine, poly


def rates(make, steps: int, base: float = 0.01, total: int | None = None, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer, total or steps, **options)
    found = []
    for _ in range(steps + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_poly_is_exact_at_every_step() -> None:
    expected = [(0.01 - 1e-4) * (1 - t / 50) ** 0.9 + 1e-4 for t in range(51)]
    assert rates(poly, 50, power=0.9, min_lr=1e-4) == pytest.approx(expected, rel=1e-12)


def test_warm_up_multiplies_the_scheduled_rate_from_its_start_factor() -> None:
    expected = [6e-5 * (1 - t / 100) * (1 - (1 - t / 15) * (1 - 1e-6) if t < 15 else 1) for t in range(101)]
    found = rates(poly, 100, base=6e-5, power=1.0, warmup=15)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[0] == pytest.approx(6e-11)
    assert found[15] == pytest.approx(6e-5 * 0.85)


def test_a_warm_up_below_one_is_a_fraction_of_the_run() -> None:
    assert rates(poly, 100, warmup=0.2) == rates(poly, 100, warmup=20)


def test_cosine_and_constant_are_exact() -> None:
    expected = [(0.01 - 1e-3) * (1 + math.cos(math.pi * t / 40)) / 2 + 1e-3 for t in range(41)]
    assert rates(cosine, 40, min_lr=1e-3) == pytest.approx(expected, rel=1e-12)
    assert rates(constant, 10) == [0.01] * 11
    assert rates(constant, 100, warmup=10)[:3] == pytest.approx(
        [1e-8, 0.01 * (1e-6 + 0.1 * (1 - 1e-6)), 0.002], rel=1e-5
    )


@pytest.mark.parametrize("make", [poly, cosine])
def test_a_run_longer_than_its_schedule_stays_where_it_ended(make) -> None:
    assert rates(make, 30, total=20, min_lr=1e-4)[20:] == pytest.approx([1e-4] * 11)
    assert rates(make, 30, total=20)[20:] == pytest.approx([0.0] * 11, abs=1e-18)


def test_groups_keep_their_ratio_and_share_the_absolute_floor() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01, 1e-5)], lr=1.0
    )
    scheduler = poly(optimizer, 10, min_lr=1e-4)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-4, 1e-4, 1e-5])


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, poly(optimizer, 20, warmup=4)

    optimizer, scheduler = make()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    other, resumed = make()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for o, s in ((optimizer, scheduler), (other, resumed)):
        o.step()
        s.step()
    assert resumed.get_last_lr() == scheduler.get_last_lr()


def test_a_warm_up_that_would_eat_the_run_is_cut_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert rates(poly, 20, warmup=1500) == rates(poly, 20, warmup=2)
    assert "warmup=1500" in caplog.text


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_steps"):
        rates(poly, 0)
    with pytest.raises(ConfigError, match="warmup=-1"):
        rates(poly, 10, warmup=-1)

"""Updates within a number of them or a time."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.train.annealing import annealed


def optimizer():
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (1.0, 0.1)]
    return torch.optim.Adam(groups)


@pytest.mark.parametrize("seconds, count", [(None, 8), (4.0, 3), (100.0, 8)])
def test_rates_fall_by_whatever_is_used_up_first(seconds, count):
    """A clock of one second per question; the first is the start."""
    adam, ticks = optimizer(), iter(range(100))
    seen = []
    for update in annealed(adam, 8, seconds, lambda: float(next(ticks))):
        share = max(update / 8, (update + 1) / seconds if seconds else 0.0)
        rate = 0.5 * (1 + math.cos(math.pi * share))
        assert [g["lr"] for g in adam.param_groups] == pytest.approx([rate, 0.1 * rate])
        seen.append(update)
    assert seen == list(range(count))

"""Every optimizer on a pool of the MPM: batches, adjoints, observations and levels of contact."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import OPTIMIZERS, Budget, closed_loop, optimize
from test_contract import NEEDS, OPTIONS, POLICIES

SMALL = {"horizon": 4, "substeps": 2, "settle": 0.02, "agitation": 0.05}
CHANGED = {"continuation": {"levels": (50.0, 200.0)}}


@pytest.fixture(scope="module")
def pool():
    return task_by_name("fluid/gathering-nano", **SMALL)


@pytest.mark.parametrize("method", sorted(OPTIMIZERS))
def test_two_iterations_on_a_pool(method, pool):
    if method in NEEDS:
        pytest.importorskip(NEEDS[method])
    options = {**OPTIONS[method], **CHANGED.get(method, {})}
    result = optimize(pool, method, budget=Budget(iterations=2), seed=1, **options)
    assert len(result.history) == 2 and math.isfinite(result.loss)
    assert result.history[-1].steps <= result.steps_used
    again = float(pool.total_loss(result.actions).detach())
    assert again == pytest.approx(result.loss, rel=1e-5)  # sums of particles in another order
    if method in POLICIES:
        assert math.isfinite(result.unseen["loss"])
        with torch.no_grad():
            run = closed_loop(pool, result.policy)
        torch.testing.assert_close(run.actions[:, 0], result.actions, rtol=1e-4, atol=1e-5)

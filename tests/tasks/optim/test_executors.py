"""Populations on threads, processes and a real cluster: the same numbers as here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Attraction, Budget, make_optimizer, optimize
from rheograd.tasks.optim.population import PopulationOptimizer
from rheograd.tasks.optim.workers import evaluate_remotely, pack_task
from test_staged import far, low, points
from toy_tasks import Fragile, FragileConfig, Tracking, TrackingConfig

BUDGET = Budget(iterations=3)
OPTIONS = {"knots": None, "population": 9, "batch": 4}


def serial(method="cem", **options):
    return optimize(Tracking(), method, budget=BUDGET, seed=5, **{**OPTIONS, **options})


def same(found, truth):
    assert torch.equal(found.actions, truth.actions)
    assert [r.loss for r in found.history] == [r.loss for r in truth.history]
    assert [r.steps for r in found.history] == [r.steps for r in truth.history]


def test_threads_give_the_same_numbers():
    with ThreadPoolExecutor(2) as executor:
        for method in ("cem", "mppi", "random"):
            found = optimize(
                Tracking(), method, budget=BUDGET, seed=5, executor=executor, **OPTIONS
            )
            same(found, serial(method))


def test_processes_give_the_same_numbers():
    """Two spawned processes; broken candidates and a wrapped task on the way."""
    optimizer = make_optimizer(Tracking(), "cem", budget=BUDGET, seed=5, jobs=2, **OPTIONS)
    assert isinstance(optimizer, PopulationOptimizer)
    while not optimizer.exhausted():
        optimizer.iterate()
    same(optimizer.result(), serial())
    pool = optimizer._pool
    processes = list(pool._processes.values())
    assert len(processes) == 2
    fragile, random = Fragile(FragileConfig(limit=0.6)), {"knots": 2, "population": 40, "batch": 8}
    here = make_optimizer(fragile, "random", **random)
    there = make_optimizer(fragile, "random", executor=pool, **random)
    actions = here.decode(here._ask())
    losses = here.evaluate(actions)[0]
    assert there.evaluate(actions)[0] == losses and float("inf") in losses
    wrapped = Attraction(Tracking(), points, far, idle=low, k=2)
    a, b = (optimize(wrapped, "cem", budget=BUDGET, executor=e, **OPTIONS) for e in (None, pool))
    same(a, b)
    optimizer.close()
    assert not any(p.is_alive() for p in processes)


def test_a_worker_builds_a_task_once():
    import rheograd.tasks.optim.workers as workers

    task = Tracking(TrackingConfig(horizon=3))
    packed = pack_task(task)
    assert len(packed) < 1000  # a class and its numbers, no arrays
    actions = torch.zeros(2, 3, 4).numpy()
    first = evaluate_remotely(packed, actions)
    kept = workers._tasks[packed]
    assert evaluate_remotely(packed, actions) == first and workers._tasks[packed] is kept
    assert first[2] == 6 and kept is not task


def test_what_cannot_travel_is_named():
    class Strange(Tracking):
        def __init__(self, config=None):
            super().__init__(config)
            self.config = (n for n in ())  # a generator cannot be pickled

        horizon = 3

    with pytest.raises(InputError, match="jobs=1"):
        pack_task(Strange())


@pytest.fixture
def cluster():
    """A real Dask cluster: a scheduler and two worker processes."""
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with local, distributed.Client(local) as client:
        assert len(client.scheduler_info()["workers"]) == 2
        yield client.get_executor(pure=False)


def test_a_cluster_gives_the_same_numbers(cluster):
    found = optimize(Tracking(), "cem", budget=BUDGET, seed=5, executor=cluster, **OPTIONS)
    same(found, serial())


@pytest.mark.slow
def test_a_cluster_runs_the_simulator(cluster):
    nano = task_by_name("fluid/gathering-nano", horizon=4, substeps=2, settle=0.02)
    options = {"knots": 2, "population": 4, "elites": 2}
    budget = Budget(iterations=1)
    there = optimize(nano, "cem", budget=budget, seed=5, executor=cluster, **options)
    here = optimize(nano, "cem", budget=budget, seed=5, **options)
    # Float32 sums in another order where threads share a launch.
    assert there.loss == pytest.approx(here.loss, rel=1e-5)
    torch.testing.assert_close(there.actions, here.actions, rtol=1e-4, atol=1e-6)

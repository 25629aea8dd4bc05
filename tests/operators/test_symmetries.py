"""Random shifts and turns: samples of the same problem, and what they are good for."""

import itertools

import numpy as np
import pytest
import torch
from rheograd.operators.data import RandomShift, RandomTurn
from rheograd.operators.layers import relative_l2
from rheograd.operators.t1 import T1, T1Config
from rheograd.operators.train import TrainerConfig, train_on_arrays
from rheograd.sim.core.errors import InputError
from rheograd.sim.grid.pdes import Darcy, GaussianField, Grid, NavierStokes2D, two_phases


def flow(x, steps=20):
    """ω(0) → ω(2), stirred by sin 2π(p + q)."""
    n = x.shape[-1]
    p = (torch.arange(n, dtype=x.dtype) + 0.5) / n
    forcing = torch.sin(2 * torch.pi * (p[:, None] + p))[None]
    pde = NavierStokes2D(Grid((n, n)), dt=0.1, viscosity=1e-2, forcing=forcing)
    state = pde.initial_state(x)
    for _ in range(steps):
        state = pde.step(state)
    return state.u


def starts(count, n, seed, dtype=torch.float32):
    field = GaussianField(Grid((n, n)), modes=6)
    return field.sample(count, torch.Generator().manual_seed(seed), dtype=dtype)


def test_shifts_across_the_forcing_are_a_symmetry_of_the_flow_and_others_are_not(generator):
    x = starts(3, 16, 0, torch.float64)
    y = flow(x)
    a, b = RandomShift([(1, -1)])(x, y, generator)
    assert not torch.equal(a, x)
    assert relative_l2(flow(a), b).max() < 1e-10
    a, b = RandomShift()(x, y, generator)
    assert relative_l2(flow(a), b).max() > 1e-3


def test_turns_are_symmetries_of_flow_through_a_square(generator):
    grid = Grid((12, 12), sides="dirichlet")
    field = GaussianField(grid, 2.0, 3.0, basis="neumann", modes=6)
    a = two_phases(field.sample(2, generator, dtype=torch.float64), 3.0, 12.0)
    u = Darcy(grid).solve(a)
    for _ in range(4):
        b, v = RandomTurn()(a, u, generator)
        assert relative_l2(Darcy(grid).solve(b), v).max() < 1e-8


def test_every_sample_moves_by_itself_and_both_fields_alike():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    seen = set()
    for seed in range(80):
        a, b = RandomShift()(x, 2 * x[:, :1], torch.Generator().manual_seed(seed))
        assert torch.equal(b, 2 * a[:, :1])
        found = [
            next(
                move
                for move in itertools.product(range(4), range(6))
                if np.array_equal(np.roll(x[i].numpy(), move, (1, 2)), a[i].numpy())
            )
            for i in range(2)
        ]
        seen |= set(found)
        again, _ = RandomShift()(x, x, torch.Generator().manual_seed(seed))
        assert torch.equal(a, again)
    assert len(seen) == 24


@pytest.mark.parametrize(("cells", "count"), [((5,), 2), ((4, 4), 8), ((4, 6), 4), ((3, 3, 3), 48)])
def test_turns_reach_every_side(cells, count):
    x = torch.arange(float(torch.tensor(cells).prod())).view(1, 1, *cells)
    seen = set()
    for seed in range(30 * count):
        a, b = RandomTurn()(x, 3 * x, torch.Generator().manual_seed(seed))
        assert torch.equal(b, 3 * a) and a.shape == x.shape
        seen.add(tuple(a.flatten().tolist()))
    assert len(seen) == count


def test_directions_of_other_dimensions_are_named(generator):
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(InputError, match="RandomShift: expected directions of 2 axes"):
        RandomShift([(1, 0, 0)])(x, x, generator)


def test_training_on_few_flows_gains_by_shifts():
    x, test = starts(24, 16, 1), starts(16, 16, 2)
    y, truth = flow(x), flow(test)
    found = {}
    for name, augment in (("none", None), ("shifts", RandomShift([(1, -1)]))):
        config = T1Config((9, 9), (16, 16), hidden_channels=12, n_layers=2)
        model = T1(config, generator=torch.Generator().manual_seed(0))
        schedule = TrainerConfig(updates=300, optimizer="adamw", lr=5e-3, schedule="cosine")
        fitted = train_on_arrays(model, x, y, schedule, validation=(test, truth), augment=augment)
        found[name] = fitted.metrics["relative_l2"]
    assert found["shifts"] < 0.75 * found["none"], found

"""Bounds of the error of Darcy flow from its two fields alone."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Darcy2D,
    DGNOConfig,
    Helmholtz2D,
    darcy_inputs,
    darcy_solutions,
    energy_bounds,
)
from rheograd.sim.core.errors import InputError

PHASES = (2.0, 7.0)
SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4}


@pytest.mark.parametrize("phases", [None, PHASES])
def test_the_truth_is_between_bounds_of_any_decoder(phases, generator):
    """Also without training; and what is between them is the sum of both errors."""
    problem = Darcy2D((8, 8), "energy", phases, forcing=3.0)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    with torch.no_grad():
        model.decoders["u"].constant.fill_(1.0)
    a = darcy_inputs(4, 8, phases, length=0.3, generator=generator).double()
    model.fit_scales(a)
    found = energy_bounds(model, a, points=6)
    truth = 3.0 * darcy_solutions(a, 3.0, fine=9, smooth=phases is None).flatten(1).mean(1)
    assert bool((found.low < truth).all()) and bool((truth < found.high).all())
    assert bool((found.gap > found.high - found.low).all())
    assert bool((found.error**2 * truth > found.gap).all())


def test_of_an_exact_flux_the_bound_is_the_error(generator):
    """a = 1, where s* is known from a series: gap = ∫ |∇(u − u*)|² and high = ∫ f u*."""
    problem = Darcy2D((8, 8), "energy", forcing=1.0)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    n = torch.arange(1, 120, 2, dtype=torch.float64)
    p = torch.pi * n

    def slope(x, y):  # ∂u*/∂x of −Δu* = 1; that in y by symmetry
        side = torch.exp(-p * x[:, None]) - torch.exp(-p * (1 - x[:, None]))
        return (4 / p**2 * torch.sin(p * y[:, None]) * side / (1 + torch.exp(-p))).sum(1)

    problem.observe = lambda name, decode, x: torch.stack(
        [slope(x[:, 0], x[:, 1]), slope(x[:, 1], x[:, 0])]
    )[None]
    a = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    found = energy_bounds(model, a, points=4)
    work = 0.0351442537  # ∫ u* of the unit square
    assert float(found.high) == pytest.approx(work, rel=1e-4)
    assert float(found.error**2 * found.low) == pytest.approx(float(found.gap))
    assert 0 < float(found.low) < work
    # and with u scaled by the best factor, low = 2 ∫ f u − ∫ a |∇u|², gap is what is between both
    with torch.no_grad():
        net = model.decoders["u"]
        best = float(found.low) / float(found.factor.reciprocal() * 0.5 * (found.low + found.high))
        net.weights.mul_(best), net.constant.mul_(best)
    scaled = energy_bounds(model, a, points=4)
    assert float(scaled.low) == pytest.approx(float(found.low))
    assert float(scaled.gap) == pytest.approx(float(scaled.high - scaled.low), rel=1e-4)


def test_what_is_refused(generator):
    a = darcy_inputs(2, 8, generator=generator)
    for problem in (Darcy2D((8, 8), "mixed"), Helmholtz2D((8, 8)),
                    Darcy2D((8, 8), "energy", walls=lambda x: x[..., 0])):  # fmt: skip
        model = DGNO(problem, DGNOConfig(**SMALL))
        model.fit_scales(a)
        with pytest.raises(InputError, match='form "energy"'):
            energy_bounds(model, a)

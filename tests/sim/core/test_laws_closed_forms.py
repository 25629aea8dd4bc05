"""Laws against closed forms: yield surfaces, hardening, relaxation, speed of sound, viscosity."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.laws import (
    JELLY,
    PLASTICINE,
    SAND,
    WATER,
    DruckerPrager,
    HerschelBulkley,
    Law,
    Liquid,
    VonMises,
)
from torch import Tensor


def diag(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def double(law: Law) -> dict[str, Tensor]:
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in law.parameters().items()}


def deviator_norm(tau: Tensor) -> Tensor:
    mean = tau.diagonal(dim1=-2, dim2=-1).mean(-1)
    return (tau - mean[..., None, None] * torch.eye(3, dtype=tau.dtype)).norm(dim=(-2, -1))


def test_von_mises_returns_to_its_surface(generator):
    law = VonMises(E=3.0, nu=0.3, yield_stress=0.2, H=0.7)
    c = law.coefficients(double(law))
    F = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(
        50, 3, 3, generator=generator, dtype=torch.float64
    )
    F = F[torch.linalg.det(F) > 0.05]
    alpha = torch.rand(F.shape[0], generator=generator, dtype=torch.float64)
    F1, a1 = law.flow(F, alpha, c, 0.1)
    stress = deviator_norm(law.stress(F1, None, c))
    limit = math.sqrt(2 / 3) * (0.2 + 0.7 * a1)
    yielded = a1 > alpha
    assert yielded.any()
    torch.testing.assert_close(stress[yielded], limit[yielded], rtol=1e-12, atol=1e-13)
    assert (stress <= limit * (1 + 1e-12)).all()
    torch.testing.assert_close(torch.linalg.det(F1), torch.linalg.det(F), rtol=1e-12, atol=0)
    again, a2 = law.flow(F1, a1, c, 0.1)
    torch.testing.assert_close(again, F1, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(a2, a1, rtol=1e-12, atol=1e-13)


def test_von_mises_hardens_as_in_closed_form():
    """Isochoric tension to the log strain e, in steps: sigma = (sigma_Y + H e) / (1 + H/(3 mu)).

    With deviator e diag(1, -1/2, -1/2), 3 mu (e - alpha) is the equivalent stress; it equals
    sigma_Y + H alpha.
    """
    law = VonMises(E=3.0, nu=0.3, yield_stress=0.02, H=0.7)
    c = law.coefficients(double(law))
    mu, n, total = float(c[0]), 20, 0.4
    step = torch.exp(torch.tensor([1.0, -0.5, -0.5], dtype=torch.float64) * total / n)
    F, alpha = diag(1, 1, 1), torch.zeros((), dtype=torch.float64)
    for _ in range(n):
        F, alpha = law.flow(torch.diag(step) @ F, alpha, c, 0.1)
    expected = (3 * mu * total - 0.02) / (3 * mu + 0.7)
    assert float(alpha) == pytest.approx(expected, rel=1e-12)
    tau = law.stress(F, None, c)
    assert float(tau[0, 0] - tau[1, 1]) == pytest.approx(0.02 + 0.7 * expected, rel=1e-12)


def test_viscoplastic_stress_relaxes_to_the_yield_surface():
    """At fixed total strain, d(tau - tau_Y)/dt = -(mu/eta)(tau - tau_Y): backward Euler steps."""
    mu, eta, dt, steps = 3.0 / 2.6, 0.5, 0.01, 30
    law = VonMises(E=3.0, nu=0.3, yield_stress=0.2, eta=eta)
    c = law.coefficients(double(law))
    F, alpha = diag(math.exp(0.3), math.exp(-0.15), math.exp(-0.15)), torch.zeros(()).double()
    limit = math.sqrt(2 / 3) * 0.2
    start = float(deviator_norm(law.stress(F, None, c))) - limit
    for _ in range(steps):
        F, alpha = law.flow(F, alpha, c, dt)
    left = float(deviator_norm(law.stress(F, None, c))) - limit
    assert left / start == pytest.approx((1 + dt * mu / eta) ** -steps, rel=1e-10)
    assert left / start == pytest.approx(math.exp(-steps * dt * mu / eta), rel=0.02)


def test_von_mises_yields_in_tension_at_its_yield_stress():
    law = VonMises(E=1e5, nu=0.3, yield_stress=500.0)
    c = law.coefficients(double(law))
    for factor, yields in ((0.999, False), (1.001, True)):
        e = factor * 500.0 / 1e5
        F = torch.diag(torch.exp(torch.tensor([e, -0.3 * e, -0.3 * e], dtype=torch.float64)))
        F1, _ = law.flow(F, None, c, 0.1)
        assert bool((F1 != F).any()) == yields


def test_drucker_prager_returns_to_its_cone(generator):
    law = DruckerPrager(E=3.0, nu=0.3, friction=35.0, cohesion=0.1)
    c = law.coefficients(double(law))
    F = 0.95 * torch.eye(3, dtype=torch.float64) + 0.2 * torch.randn(
        80, 3, 3, generator=generator, dtype=torch.float64
    )
    F = F[torch.linalg.det(F) > 0.05]
    F1, alpha = law.flow(F, None, c, 0.1)
    assert alpha is None
    tau = law.stress(F1, None, c)
    trace = tau.diagonal(dim1=-2, dim2=-1).sum(-1)
    # At the tip the mean tension is C cot phi.
    tip = 0.1 / math.tan(math.radians(35.0))
    limit = float(c[2]) * (3 * tip - trace)
    assert (deviator_norm(tau) <= limit + 1e-12).all()
    moved = (F1 != F).any(-1).any(-1)
    opened = torch.isclose(trace, torch.full_like(trace, 3 * tip), atol=1e-12)
    assert opened.any() and (moved & ~opened).any() and (~moved).any()
    torch.testing.assert_close(deviator_norm(tau)[moved], limit[moved], rtol=1e-11, atol=1e-12)


def test_nclaw_formulas_are_reproduced(generator):
    """The presets against the principal-value formulas, written here with an SVD."""
    F = torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(
        60, 3, 3, generator=generator, dtype=torch.float64
    )
    U, s, Vh = torch.linalg.svd(F)
    eps, J = s.log(), s.prod(-1)[:, None, None]
    trace = eps.sum(-1, keepdim=True)
    dev = eps - trace / 3
    norm = dev.norm(dim=-1, keepdim=True)
    eye = torch.eye(3, dtype=torch.float64)

    def build(values):
        return (U * values[:, None]) @ Vh

    def hencky(mu, lam):
        return (U * (2 * mu * eps + lam * trace)[:, None]) @ U.mT

    mu, lam = 1e5 / 2.4, 1e5 * 0.2 / (1.2 * 0.6)
    jelly = 2 * mu * (F - U @ Vh) @ F.mT + lam * J * (J - 1) * eye
    torch.testing.assert_close(JELLY.stress(F, None, JELLY.coefficients(double(JELLY))), jelly)

    c = PLASTICINE.coefficients(double(PLASTICINE))
    mu, lam = 3e5 / 2.5, 3e5 * 0.25 / (1.25 * 0.5)
    gap = (norm - 5e3 / (2 * mu)).clamp(min=0)
    torch.testing.assert_close(PLASTICINE.stress(F, None, c), hencky(mu, lam))
    expected = build((eps - gap * dev / norm).exp())
    torch.testing.assert_close(PLASTICINE.flow(F, None, c, 0.1)[0], expected)

    c = SAND.coefficients(double(SAND))
    mu, lam = 1e6 / 2.4, 1e6 * 0.2 / (1.2 * 0.6)
    sine = math.sin(math.radians(25))
    slope = math.sqrt(2 / 3) * 2 * sine / (3 - sine)
    gap = (norm + (3 * lam + 2 * mu) / (2 * mu) * trace * slope).clamp(min=0)
    cone = (eps - gap * dev / norm).exp()
    expected = build(torch.where(trace >= 0, torch.ones_like(eps), cone))
    torch.testing.assert_close(SAND.stress(F, None, c), hencky(mu, lam))
    torch.testing.assert_close(SAND.flow(F, None, c, 0.1)[0], expected)

    c = WATER.coefficients(double(WATER))
    lam = 1e5 * 0.3 / (1.3 * 0.4)
    torch.testing.assert_close(WATER.stress(J[:, 0, 0], None, c), lam * J * (J - 1) * eye)


@pytest.mark.parametrize("eos", ["tait", "linear"])
def test_speed_of_sound(eos):
    """c^2 = dp/d(density) = -J^2 p'(J) / rho at rest is bulk / rho."""
    law = Liquid(bulk=2.2e6, rho=900.0, eos=eos)
    c = law.coefficients(double(law))
    J = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(law.pressure(J, c), J)
    speed = math.sqrt(-float(slope) / 900.0)
    assert speed == pytest.approx(math.sqrt(float(law.wave_modulus(c)) / 900.0), rel=1e-12)
    assert speed == pytest.approx(math.sqrt(2.2e6 / 900.0), rel=1e-12)


def shear(rate: float) -> Tensor:
    L = torch.zeros(3, 3, dtype=torch.float64)
    L[0, 2] = rate
    return L


def test_simple_shear_of_a_newtonian_liquid():
    law = Liquid(eta=1.7)
    c = law.coefficients(double(law))
    J = torch.ones((), dtype=torch.float64)
    tau = law.stress(J, shear(3.0), c)
    assert float(tau[0, 2]) == pytest.approx(1.7 * 3.0, rel=1e-14)
    assert float(tau.diagonal().abs().max()) == 0
    assert float(law.viscosity(c)) == 1.7
    expansion = law.stress(J, 0.3 * torch.eye(3, dtype=torch.float64), c)
    assert float(expansion.abs().max()) < 1e-14


@pytest.mark.parametrize("n", [0.5, 1.0, 1.5])
def test_simple_shear_of_a_herschel_bulkley_liquid(n):
    """Between the plateaus the flow curve is tau_y + K rate^n."""
    law = HerschelBulkley(K=3.0, n=n, yield_stress=20.0, m=1e4, rate_max=1e6)
    c = law.coefficients(double(law))
    for rate in (0.1, 1.0, 30.0):
        tau = law.stress(torch.ones((), dtype=torch.float64), shear(rate), c)
        assert float(tau[0, 2]) == pytest.approx(20.0 + 3.0 * rate**n, rel=1e-6)


@pytest.mark.parametrize("n", [0.5, 1.0, 1.5])
def test_herschel_bulkley_viscosity_bound_holds_and_is_sharp(n):
    law = HerschelBulkley(K=3.0, n=n, yield_stress=20.0, m=50.0)
    c = law.coefficients(double(law))
    rates = torch.logspace(-9, 9, 400, dtype=torch.float64)
    eta = law.effective_viscosity(rates**2, c)
    bound = float(law.viscosity(c))
    assert float(eta.max()) <= bound * (1 + 1e-12)
    # The bound adds maxima that a thickening liquid takes at different rates.
    assert float(eta.max()) >= (bound - (20.0 * 50.0 if n > 1 else 0)) * (1 - 1e-6)


def test_herschel_bulkley_at_rest_has_the_bounded_slope():
    law = HerschelBulkley(K=3.0, n=0.5, yield_stress=20.0, m=50.0)
    c = law.coefficients(double(law))
    L = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    tau = law.stress(torch.ones((), dtype=torch.float64), L, c)
    (slope,) = torch.autograd.grad(tau[0, 2], L)
    assert float(slope[0, 2]) == pytest.approx(3.0 * 50.0**0.5 + 20.0 * 50.0, rel=1e-12)

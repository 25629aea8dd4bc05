"""Laws in torch: derivatives, energies, symmetry, closed forms, parameters, messages."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import random_rotations
from rheograd.sim.core.backend import warp
from rheograd.sim.core.laws import (
    JELLY,
    LAWS,
    PLASTICINE,
    SAND,
    WATER,
    DruckerPrager,
    FixedCorotated,
    Hencky,
    HerschelBulkley,
    Law,
    Liquid,
    NeoHookean,
    TorchLaw,
    VonMises,
    lame,
    law_by_name,
    parameter,
    register_law,
    young,
)
from torch import Tensor

SOLIDS = [NeoHookean, FixedCorotated, Hencky]
PLASTIC = [VonMises, DruckerPrager]
STRESSED = [
    NeoHookean(E=3.0, nu=0.3),
    FixedCorotated(E=3.0, nu=0.3),
    Hencky(E=3.0, nu=0.3),
    VonMises(E=3.0, nu=0.3, yield_stress=0.2, H=0.7, eta=0.02),
    DruckerPrager(E=3.0, nu=0.3, friction=35.0, cohesion=0.1),
    Liquid(bulk=2.0, eta=0.4),
    Liquid(bulk=2.0, eta=0.4, eos="linear"),
    HerschelBulkley(bulk=2.0, K=0.5, n=0.6, yield_stress=0.3, m=20.0),
    HerschelBulkley(bulk=2.0, K=0.5, n=1.4, yield_stress=0.3, m=20.0),
]


def label(law) -> str:
    kind = law.__name__ if isinstance(law, type) else type(law).__name__
    return f"{kind}-{getattr(law, 'eos', '')}{getattr(law, 'n', '')}" if kind != "type" else kind


def diag(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def special(generator) -> Tensor:
    """F = I, a rotation, two equal stretches (rotated), a uniform one, a generic one."""
    Q, P = random_rotations(2, generator=generator)
    generic = Q @ diag(1.25, 0.9, 0.7) @ P
    return torch.stack([diag(1, 1, 1), Q, Q @ diag(1.2, 1.2, 0.8) @ P, 0.9 * P, generic])


def double(law: Law) -> dict[str, Tensor]:
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in law.parameters().items()}


@pytest.mark.parametrize("law", STRESSED, ids=label)
def test_stress_gradients_at_special_states(law, generator):
    F = special(generator)
    L = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    if law.storage == "J":
        F = torch.linalg.det(F)
    p = double(law)
    names = [n for n in p if n not in ("rho", "yield_stress", "H", "friction", "cohesion", "eta")]
    if isinstance(law, HerschelBulkley):
        names.append("yield_stress")
    if isinstance(law, Liquid):
        names.append("eta")
    if getattr(law, "eos", "") == "linear":
        names.remove("gamma")

    def f(F, L, *values):
        return law.stress(F, L, law.coefficients(p | dict(zip(names, values, strict=True))))

    assert torch.autograd.gradcheck(f, [t.requires_grad_() for t in (F, L)] + [
        p[n].clone().requires_grad_() for n in names
    ])  # fmt: skip


@pytest.mark.parametrize("law", [s for s in STRESSED if s.flows], ids=label)
def test_flow_gradients_on_both_sides_of_the_yield_surface(law, generator):
    F = special(generator)
    # Stretched and compressed copies: the elastic range, the cone and its tip.
    F = torch.cat([F, 0.97 * F, 0.85 * F, 1.2 * F[1:]])
    alpha = 0.1 * torch.rand(F.shape[0], generator=generator, dtype=torch.float64)
    p = double(law)
    c = law.coefficients(p)
    F1, a1 = law.flow(F, alpha, c, 0.1)
    moved = (F1 - F).abs().amax((1, 2)) > 0
    assert 0 < int(moved.sum()) < F.shape[0]
    names = [n for n in p if n != "rho"]

    def f(F, alpha, *values):
        c = law.coefficients(p | dict(zip(names, values, strict=True)))
        return law.flow(F, alpha, c, 0.1)

    # Differences of the two-sided kind need a state off the kink by more than their step.
    leaves = [t.clone().requires_grad_() for t in (F, alpha, *(p[n] for n in names))]
    assert torch.autograd.gradcheck(f, leaves)


@pytest.mark.parametrize("kind", SOLIDS + PLASTIC, ids=label)
def test_stress_is_the_derivative_of_the_energy(kind, generator):
    law = kind(E=3.0, nu=0.3)
    c = law.coefficients(double(law))
    F = special(generator).requires_grad_()
    (P,) = torch.autograd.grad(law.energy(F, c).sum(), F)
    tau = law.stress(F, None, c)
    torch.testing.assert_close(P @ F.mT, tau, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(tau, tau.mT, rtol=1e-12, atol=1e-12)
    assert tau[:2].abs().max() < 1e-14


@pytest.mark.parametrize("eos", ["tait", "linear"])
def test_liquid_pressure_is_the_derivative_of_the_energy(eos):
    law = Liquid(bulk=3.0, eos=eos)
    c = law.coefficients(double(law))
    J = torch.tensor([0.7, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(law.energy(J, c).sum(), J)
    expected = (J * slope)[:, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(law.stress(J, None, c), expected, rtol=1e-12, atol=1e-13)
    assert law.energy(torch.ones((), dtype=torch.float64), c) == 0


@pytest.mark.parametrize("law", STRESSED, ids=label)
def test_frame_indifference(law, generator):
    F = special(generator)
    F = torch.cat([F, 0.9 * F])
    L = torch.randn(10, 3, 3, generator=generator, dtype=torch.float64)
    Q = random_rotations(10, generator=generator)
    c = law.coefficients(double(law))
    alpha = torch.zeros(10, dtype=torch.float64)
    if law.storage == "J":
        J = torch.linalg.det(F)
        spun = law.stress(J, Q @ L @ Q.mT, c)
        torch.testing.assert_close(spun, Q @ law.stress(J, L, c) @ Q.mT, rtol=1e-12, atol=1e-12)
        spin = L - L.mT
        torch.testing.assert_close(law.stress(J, L + spin, c), law.stress(J, L, c))
        return
    spun = law.stress(Q @ F, L, c)
    torch.testing.assert_close(spun, Q @ law.stress(F, L, c) @ Q.mT, rtol=1e-12, atol=1e-12)
    spun = law.flow(Q @ F, alpha, c, 0.1)[0]
    torch.testing.assert_close(spun, Q @ law.flow(F, alpha, c, 0.1)[0], rtol=1e-12, atol=1e-12)


def test_small_strain_stiffness_is_the_same_for_all_solids():
    """tau = 2 mu e + lam tr e I to first order, and E, nu as in a tension test."""
    e = 1e-7
    for kind in SOLIDS:
        law = kind(E=5.0, nu=0.3)
        c = law.coefficients(double(law))
        tau = law.stress(diag(1 + e, 1 - 0.3 * e, 1 - 0.3 * e), None, c)
        torch.testing.assert_close(tau / e, diag(5.0, 0, 0), rtol=1e-5, atol=1e-5)
        assert float(law.wave_modulus(c)) == pytest.approx(5.0 * 0.7 / (1.3 * 0.4))


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


@pytest.mark.parametrize("law", STRESSED, ids=label)
def test_single_precision_gradients_point_the_same_way(law, generator):
    F = special(generator)
    F = torch.cat([F, 0.9 * F])
    L = torch.randn(10, 3, 3, generator=generator, dtype=torch.float64)
    L[0] = 0.0
    g = torch.randn(10, 3, 3, generator=generator, dtype=torch.float64)
    F = torch.linalg.det(F) if law.storage == "J" else F
    result = {}
    for dtype in (torch.float64, torch.float32):
        leaf = F.to(dtype).clone().requires_grad_()
        c = law.coefficients({k: v.to(dtype) for k, v in double(law).items()})
        value = law.stress(law.flow(leaf, None, c, 0.1)[0], L.to(dtype), c)
        result[dtype] = torch.autograd.grad(value, leaf, g.to(dtype))[0].double().flatten()
    a, b = result.values()
    assert float(a @ b / (a.norm() * b.norm())) >= 0.999
    # Gradients of stress lose a digit at most against the 6e-8 of storage.
    assert float((a - b).norm() / a.norm()) <= 1e-5


def test_lame_parameters_and_back():
    mu, lam = lame(torch.tensor(3.0), torch.tensor(0.3))
    E, nu = young(mu, lam)
    torch.testing.assert_close((E, nu), (torch.tensor(3.0), torch.tensor(0.3)))
    law = NeoHookean.from_lame(416.67, 277.78, rho=1.0)
    torch.testing.assert_close(law.coefficients(), torch.tensor([416.67, 277.78]))
    assert law.rho == 1.0


def test_parameters_broadcast_and_complete_from_the_fields():
    law = VonMises(E=2.0, nu=0.0, yield_stress=0.1)
    c = law.coefficients({"E": torch.rand(4, 1) + 1, "yield_stress": torch.rand(5)})
    assert c.shape == (5, 4, 5)
    assert law.viscosity(c).shape == (4, 5)
    assert float(c[3].abs().max()) == 0
    with pytest.raises(ValueError, match=r"parameters among .*yield_stress.*; got viscosity"):
        law.coefficients({"viscosity": torch.ones(())})
    assert NeoHookean().coefficients({"E": torch.ones((), dtype=torch.float64)}).dtype is (
        torch.float64
    )


def test_validation_names_every_parameter_out_of_range():
    NeoHookean().validate()
    with pytest.raises(ValueError) as caught:
        NeoHookean(nu=0.5, rho=-1.0).validate({"E": torch.tensor([1.0, -2.0])})
    text = str(caught.value)
    for part in ("nu > -1 and < 0.5", "nu = 0.5", "rho > 0 kg/m³", "rho = -1 kg/m³", "E = -2 Pa"):
        assert part in text
    with pytest.raises(ValueError, match="E > 0 Pa; got E = nan Pa"):
        Hencky(E=float("nan")).validate()
    with pytest.raises(ValueError, match="friction > 0 and < 90 deg"):
        DruckerPrager(friction=90.0).validate()
    with pytest.raises(ValueError, match="eos among tait, linear; got ideal"):
        Liquid(eos="ideal")


def test_registry():
    assert law_by_name("neo_hookean") is NeoHookean
    with pytest.raises(ValueError, match="got unknown material 'mud'") as caught:
        law_by_name("mud")
    for name in LAWS:
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="a name other than"):
        register_law("hencky")(NeoHookean)


def test_torch_law_wraps_networks(generator):
    net = torch.nn.Linear(9, 9).double()
    law = TorchLaw(
        elastic=lambda F: net(F.flatten(-2)).unflatten(-1, (3, 3)), stiffness=2e3, rho=5.0
    )
    F = special(generator)
    c = law.coefficients()
    assert law.engine_functions(None) is None and float(law.wave_modulus(c)) == 2e3
    assert law.stress(F, None, c).shape == F.shape
    assert law.flow(F, None, c, 0.1)[0] is F
    assert law.weights() == ()

    class Elastic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, F):
            return self.scale * (F - F.mT)

    module = Elastic()
    law = TorchLaw(elastic=module, plastic=module)
    (weight,) = law.weights()
    assert weight is module.scale
    law.stress(law.flow(F, None, c, 0.1)[0], None, c).square().sum().backward()
    assert module.scale.grad is not None and torch.isfinite(module.scale.grad)


def test_a_law_for_the_engine_only_names_the_remedy():
    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Mine(NeoHookean):
        k: float | Tensor = parameter(1.0, "Pa", above=0.0)

        def engine_functions(self, real):
            return "stress", None

    with pytest.raises(NotImplementedError, match=r"Mine.stress: .* override stress\(F, L, c\)"):
        Mine().stress(torch.eye(3), None, Mine().coefficients())
    assert Mine().parameters().keys() == {"rho", "E", "nu", "k"}
    law = TorchLaw(torch.zeros_like)
    with pytest.raises(NotImplementedError, match="TorchLaw.energy"):
        law.energy(torch.eye(3), law.coefficients())


def test_a_law_changed_in_torch_does_not_keep_the_engine_form():
    class Softer(NeoHookean):
        def stress(self, F, L, c):
            return 0.5 * super().stress(F, L, c)

    assert Softer().engine_functions(None) is None


def test_a_law_with_other_parameters_keeps_the_engine_form():
    class LogStiffness(NeoHookean):
        def coefficients(self, p=None):
            v = self.values(p)
            return super().coefficients(v | {"E": torch.exp(v["E"])})

    wp = warp()
    law = LogStiffness(E=math.log(3.0), nu=0.3)
    assert law.engine_functions(wp.float32) == NeoHookean().engine_functions(wp.float32)
    torch.testing.assert_close(law.coefficients(), NeoHookean(E=3.0, nu=0.3).coefficients())

"""Laws in torch: derivatives, energies, symmetry, closed forms, parameters, messages."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import random_rotations
from rheograd.sim.core.backend import warp
from rheograd.sim.core.laws import (
    LAWS,
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

"""The form of Darcy flow whose fluxes are balanced exactly: both energies in one residual."""

import math

import numpy as np
import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Burgers1D,
    Darcy2D,
    DGNOConfig,
    Observation,
    Posterior,
    StokesCylinder,
    burgers_inputs,
    darcy_fluxes,
    darcy_inputs,
    darcy_solutions,
    energy_bounds,
    inflows,
    relative_error,
)
from rheograd.operators.dgno.csrbf import Particles
from rheograd.operators.dgno.jets import function_jet
from rheograd.operators.dgno.priors import CubePrior
from rheograd.operators.train import TrainerConfig
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test

SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4}
PHASES = (5.0, 10.0)
F = 3.0


def jets(functions):
    """A decoder of functions of (n, 2), with slopes by autograd, as `Problem` asks for it."""

    def decode(x, order, names):
        out = {}
        for name in names:
            at = x.detach().requires_grad_()
            f = functions[name](at)
            slope = torch.autograd.grad(f.sum(), at)[0]
            rows = torch.stack([f.detach(), *slope.unbind(1)][: 3 if order else 1])
            out[name] = rows[:, None, None]  # (S, 1, 1, n)
        return out

    return decode


def layered(x):
    """u with −∇·((1 + x) ∇u) = F, whose flux is −F (x − ½) in x."""
    return -F * (x[:, 0] - 1.5 * torch.log1p(x[:, 0]))


def gauss(n=24):
    """Points of a Gauss rule in the square as particles of one point, and weights."""
    x, w = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(n))
    x, w = 0.5 * (x + 1), 0.5 * w
    points = torch.cartesian_prod(x, x)[:, None]
    zero = torch.zeros_like(points)
    return Particles(points, torch.ones(1).double(), zero), torch.outer(w, w).flatten()


def test_mean_square_is_the_sum_of_both_energy_errors():
    """∫ |s − a ∇u|²/a = ∫ a |∇(u − u*)|² + ∫ |s − s*|²/a (Prager & Synge), u off by v, s by curl χ."""

    def v(x):
        return torch.sin(math.pi * x).prod(1) * torch.exp(x[:, 0] - 2 * x[:, 1] ** 2)

    def chi(x):
        return torch.sin(2 * x[:, 0] + x[:, 1]) * (1 + x[:, 1] ** 2)

    problem = Darcy2D((8, 8), "energy", forcing=F, walls=lambda x: layered(x.reshape(-1, 2)))
    where, weight = gauss()
    star = {
        "u": layered,
        "a": lambda x: torch.log1p(x[:, 0]),
        "stream": lambda x: -0.5 * F * (x - 0.5).prod(1),
    }
    wrong = star | {
        "u": lambda x: layered(x) + v(x),
        "stream": lambda x: star["stream"](x) + chi(x),
    }

    def energy(functions):
        rows = problem.residuals(jets(functions), where, None)["flux"][0].unflatten(0, (2, -1))
        return float((rows.square().sum(0) * weight).sum()) * 0.05 * F**2 / problem.middle

    a = 1 + where.points[:, 0]
    slopes = [
        jets({"f": f})(where.points, 1, ("f",))["f"][1:, 0, 0].square().sum(0) for f in (v, chi)
    ]
    primal, dual = (a * slopes[0] * weight).sum(), (slopes[1] / a * weight).sum()
    assert energy(star) < 1e-20
    assert energy(wrong) == pytest.approx(float(primal + dual), rel=1e-9)
    assert energy(wrong | {"u": layered}) == pytest.approx(float(dual), rel=1e-9)


def test_fluxes_are_balanced(generator):
    """−∇·s = f for any code, at shared points and at those of each sample; labels and sensors see s."""
    problem = Darcy2D((8, 8), "energy", PHASES, count=16, forcing=F)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    beta = torch.rand(3, 6, generator=generator, dtype=torch.float64) - 0.5
    model.requires_grad_(False)
    decode = model.decode(beta)
    x = torch.rand(7, 2, generator=generator, dtype=torch.float64)
    h, div = 1e-5, 0.0
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        ahead, behind = (problem.observe("s", decode, x + k * step)[:, axis] for k in (1, -1))
        div = div + (ahead - behind) / (2 * h)
    assert float((div + F).abs().max()) < 1e-8
    assert float(problem.observe("s", decode, x).std(0).max()) > 1e-3  # codes differ
    own = problem.observe("s", decode, x.expand(3, -1, -1))
    assert torch.allclose(own, problem.observe("s", decode, x), rtol=1e-12)

    model = model.float().requires_grad_(True)
    a = darcy_inputs(3, 8, PHASES, generator=generator)
    model.fit_scales(a)
    assert problem.observables == ("u", "s")
    parts = model.loss({"a": a, "u": darcy_solutions(a), "s": darcy_fluxes(a)}, generator)
    assert set(parts) == {"loss", "input", "flux", "labels", "labels s"}
    with pytest.raises(InputError, match="observe: expected one of"):
        model(a, of="stream")
    seen = Observation(x.float(), model(a, x.float(), of="s")[0].detach(), 0.1, of="s")
    post = Posterior(model, CubePrior(6), [seen], 1.0, generator=generator)
    assert post.rows(torch.zeros(2, 6)).shape == (2, 14 + 32 + 6)


def test_every_square_has_a_point():
    problem = Darcy2D((8, 8), "energy", count=50)  # 7 × 7
    x = problem.sample(torch.Generator().manual_seed(0), torch.zeros(()).double()).points
    assert sorted((7 * x).floor().long().tolist()) == [[i, j] for i in range(7) for j in range(7)]
    again = problem.sample(torch.Generator().manual_seed(1), torch.zeros(()).double()).points
    assert float((x - again).abs().max()) > 0.05


@pytest.mark.parametrize("name", ["darcy", "stokes", "burgers", "burgers relative"])
def test_gradient_of_the_loss(name, generator):
    """Taylor test in all weights at fixed points."""
    if name == "darcy":
        problem, a = (
            Darcy2D((8, 8), "energy", PHASES, count=9),
            darcy_inputs(2, 8, PHASES, generator=generator),
        )
    elif name == "stokes":
        problem, a = StokesCylinder(16, form="energy", count=12), inflows(2, 16, generator)
    else:
        problem = Burgers1D(32, form="energy", count=9, relative=name != "burgers")
        a = burgers_inputs(2, 32, generator)
    a = a.double()
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    model.fit_scales(a)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model

        def forward(self):
            return self.m.loss({"a": a}, torch.Generator().manual_seed(1))["loss"]

    def f(weights):
        named = {f"m.{k}": v for k, v in weights.items()}
        return torch.func.functional_call(Loss(), named)

    assert taylor_test(f, start, eps0=1e-3, generator=generator).passed()


def stokes(generator, **options):
    problem = StokesCylinder(16, form="energy", **options)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double().requires_grad_(False)
    beta = torch.rand(2, 6, generator=generator, dtype=torch.float64) - 0.5
    return problem, model.decode(beta)


def test_stresses_around_the_disc_are_balanced(generator):
    """−∇·σ = 0 for any code, and what crosses a circle is the load: force and torque on the disc."""
    problem, decode = stokes(generator)
    centre = torch.tensor(problem.centre, dtype=torch.float64)
    x = centre + 0.15 + 0.3 * torch.rand(5, 2, generator=generator, dtype=torch.float64)
    h = 1e-4

    def slope(c, axis):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        ahead, behind = (problem.stresses(decode, x + k * step)[:, c] for k in (1, -1))
        return (ahead - behind) / (2 * h)

    assert float(slope(0, 0).abs().max()) > 1e-2
    for one, other in ((0, 2), (2, 1)):
        assert float((slope(one, 0) + slope(other, 1)).abs().max()) < 1e-5

    angle = 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400
    n, r = torch.stack([angle.cos(), angle.sin()], 1), 0.15
    s11, s22, s12 = problem.stresses(decode, centre + r * n).unbind(1)
    t1, t2 = s11 * n[:, 0] + s12 * n[:, 1], s12 * n[:, 0] + s22 * n[:, 1]
    around = torch.stack([t1, t2, r * (n[:, 0] * t2 - n[:, 1] * t1)], 1).mean(-1) * 2 * math.pi * r
    load = problem.load(decode, x)
    assert float(load.abs().min()) > 1e-5
    assert torch.allclose(around, load, rtol=1e-6, atol=1e-12)


def test_points_stand_for_their_area():
    """Averages of a function over the fluid by weighted points, many updates together."""
    problem = StokesCylinder(16, form="energy", count=100)
    g, like, total, area = torch.Generator().manual_seed(0), torch.zeros(()).double(), 0.0, 0.0
    for _ in range(300):
        where = problem.sample(g, like)
        x, w = where.particles.points, where.weight
        assert float(problem.distance(x).min()) > 0 and float(w.mean()) == pytest.approx(1)
        total += float((w * x[:, 0]).sum())
        area += float(w.sum())
    hole = math.pi * 0.1**2
    assert total / area == pytest.approx((2 - hole * 0.5) / (2 - hole), rel=3e-3)
    near = (problem.distance(x) < 0.1).double().mean()
    assert float(near) > 2 * (math.pi * 0.2**2 - hole) / (2 - hole)  # more of them around the disc


def test_forms_of_stokes_are_named():
    with pytest.raises(InputError, match="form out of"):
        StokesCylinder(form="weak")


def potential(f):
    """A decoder of one function of (sin(πx/2), t), (n, 2) → (n,), with two derivatives."""

    def decode(x, order, names):
        return {"psi": function_jet(f, x, order)[:, None, None]}

    return decode


def test_burgers_residual_of_an_exact_solution():
    """Cole–Hopf: ψ = −2ν log(1 + c e^{−νπ²t} cos πx)."""
    problem = Burgers1D(32, viscosity=0.2, form="energy", count=64)
    nu = problem.viscosity

    def heat(x, t):
        return 0.8 * torch.exp(-nu * math.pi**2 * t) * torch.cos(math.pi * x)

    def psi(at):  # cos πx = 1 − 2 sin²(πx/2)
        even = torch.exp(-nu * math.pi**2 * at[..., 1]) * (1 - 2 * at[..., 0] ** 2)
        return -2 * nu * torch.log(1 + 0.8 * even)

    where = problem.sample(torch.Generator().manual_seed(0), torch.zeros(()).double())
    x = where.points
    squares = ((x + x.new_tensor([1.0, 0.0])) * x.new_tensor([4.0, 8.0])).floor().long()
    assert sorted(squares.tolist()) == [[i, j] for i in range(8) for j in range(8)]
    decode = potential(psi)
    assert float(problem.residuals(decode, where, None)["residual"].abs().max()) < 1e-12
    u = problem.observe("u", decode, x)[0, 0]
    slope = -math.pi * 0.8 * torch.exp(-nu * math.pi**2 * x[:, 1]) * torch.sin(math.pi * x[:, 0])
    exact = -2 * nu * slope / (1 + heat(x[:, 0], x[:, 1]))
    assert float(u.abs().max()) > 0.5 and torch.allclose(u, exact, atol=1e-12)
    ends = torch.tensor([[-1.0, 0.3], [1.0, 0.9]]).double()
    assert float(problem.observe("u", decode, ends).abs().max()) < 1e-12
    y = problem.grid.points(x).reshape(-1, 1)
    first = problem.inputs(decode, y)
    assert float(problem.misfit(decode, first[:, None])) < 1e-20
    size = 0.5 * float(first.square().mean().sqrt())
    assert float(problem.misfit(decode, 0.5 * first[:, None])) == pytest.approx((size / 0.3) ** 2)
    own = Burgers1D(32, viscosity=0.2, form="energy", relative=True)
    misfit = float(own.misfit(decode, 0.5 * first[:, None]))
    assert misfit == pytest.approx((size / (size + 0.05 * 0.3)) ** 2)
    with pytest.raises(InputError, match="viscosity"):
        Burgers1D(viscosity=0.0, form="energy")


def test_burgers_residual_is_an_energy():
    """∫∫ r² = ∫∫ [ν u_x² + ψ_t²/ν] + ∫ u(1)² − ∫ u(0)² for small u beside the solution 0."""
    problem = Burgers1D(32, viscosity=0.3, form="energy", speed=1.0)
    nu, size = problem.viscosity, 1e-5

    def psi(at):
        return size * torch.sin(2 * at[..., 0] + at[..., 1]) * (1 + at[..., 1] ** 2)

    y, w = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(20))
    t = 0.5 * (y + 1)
    x = torch.stack([v.flatten() for v in torch.meshgrid(y, t, indexing="ij")], 1)
    weight = torch.outer(w, 0.5 * w).flatten()
    where = Particles(x[:, None], torch.ones(1).double(), torch.zeros_like(x[:, None, :1]))
    decode = potential(psi)
    total = (problem.residuals(decode, where, None)["residual"][0].square() * weight).sum()
    _, slope, rate = problem._potential(decode, x)
    inside = ((nu * slope.square() + rate.square() / nu)[0] * weight).sum()

    def at(time):
        u = problem.observe("u", decode, torch.stack([y, torch.full_like(y, time)], 1))
        return (u[0, 0].square() * w).sum()

    assert float(total) == pytest.approx(float(inside + at(1.0) - at(0.0)), rel=1e-4)


def test_training_on_energies_lowers_error_and_bound(generator):
    """Two phases without a solution; before, u is several times too large or small."""
    a = darcy_inputs(64, 16, PHASES, 0.3, generator=generator)
    unseen = darcy_inputs(8, 16, PHASES, 0.3, generator=generator)
    u = darcy_solutions(unseen)
    problem = Darcy2D((16, 16), "energy", PHASES, count=64)
    torch.manual_seed(0)
    model = DGNO(
        problem, DGNOConfig(16, 24, 4, channels=8, weight_virtual=20.0), generator=generator
    )
    model.fit_scales(a)

    @torch.no_grad()
    def measured():
        bound = energy_bounds(model, unseen).error.mean()
        return float(relative_error(model(unseen), u).mean()), float(bound)

    before = measured()
    optimizer = TrainerConfig(updates=1, optimizer="soap", lr=6e-3).make_optimizer(model)
    for update in range(80):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - update / 80)
        optimizer.zero_grad()
        index = torch.randint(len(a), (16,), generator=generator)
        model.loss({"a": a[index]}, generator)["loss"].backward()
        optimizer.step()
    error, bound = measured()
    assert before[0] > 0.5 and error < 0.15
    assert 0.05 < bound < 0.4 < before[1]

"""What every time-dependent PDE has to keep: residuals, batches, precisions, derivatives, checkpoints."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from pde_cases import CASES, field
from rheograd.sim.core.errors import InputError, StabilityError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import (
    Burgers,
    BurgersFV,
    FieldControl,
    FitzHughNagumo,
    Grid,
    Heat,
    NavierStokes2D,
    NavierStokes3D,
    dirichlet,
    robin,
)

every_pde = pytest.mark.parametrize("name", CASES)


def scalar(u):
    """A loss that weighs every value differently."""
    weights = torch.linspace(-1.0, 2.0, u[0].numel(), dtype=u.dtype).reshape(u.shape[1:])
    return (u * weights).sum() + u.square().sum()


@every_pde
def test_the_residual_of_a_step_is_zero(name) -> None:
    pde, u0, params = CASES[name]
    control = FieldControl(field(pde.grid, len(pde.channels), seed=3))
    u1 = pde.step(pde.initial_state(u0), control, params).u
    R = pde.residual(u0, u1, params, control)
    assert R.shape == u0.shape
    assert float(R.abs().max()) * pde.dt < 1e-11 * float(u0.abs().max())
    # and it is a measure: a wrong successor has a defect of its own size
    wrong = pde.residual(u0, u0, params, control)
    assert float(wrong.abs().max()) > 1e-3 * float((u1 - u0).abs().max()) / pde.dt


@every_pde
def test_a_batch_is_a_loop(name) -> None:
    pde, u0, params = CASES[name]
    both = pde.step(pde.initial_state(u0), None, params).u
    for b in range(2):
        own = {k: v[b : b + 1] if v.ndim and len(v) == 2 else v for k, v in params.items()}
        one = pde.step(pde.initial_state(u0[b : b + 1]), None, own).u
        assert relative_error(both[b : b + 1], one) < 1e-11


@every_pde
def test_single_precision_follows_double(name) -> None:
    pde, u0, params = CASES[name]
    exact = pde.step(pde.initial_state(u0), None, params).u
    low = {k: v.float() for k, v in params.items()}
    u = pde.step(pde.initial_state(u0.float()), None, low).u
    assert u.dtype == torch.float32
    assert relative_error(u.double(), exact) < 2e-5


@every_pde
def test_steps_are_differentiable_in_state_parameters_and_control(name) -> None:
    pde, u0, params = CASES[name]
    push = 0.3 * field(pde.grid, len(pde.channels), seed=9)

    def loss(tree):
        state = pde.initial_state(tree["u"])
        state = pde.step(state, FieldControl(tree["push"]), tree["params"])
        return scalar(pde.step(state, None, tree["params"]).u)

    # One direction moves all inputs, each by its own size.
    report = taylor_test(loss, {"u": u0, "push": push, "params": params}, eps0=1e-2, levels=3)
    assert report.rate > 1.9, report


@every_pde
def test_residuals_are_differentiable(name) -> None:
    pde, u0, params = CASES[name]
    u1 = u0 + 0.05 * field(pde.grid, len(pde.channels), seed=2)
    tree = {"u0": u0, "u1": u1, "params": params}

    def loss(t):
        return scalar(pde.residual(t["u0"], t["u1"], t["params"]) * pde.dt)

    report = taylor_test(loss, tree, eps0=1e-2, levels=3)
    assert report.rate > 1.9, report


@pytest.mark.parametrize(
    "name", ["vorticity-spectral-etdrk4", "fitzhugh-crank_nicolson", "burgers-walls-implicit_euler"]
)
def test_residuals_pass_gradcheck(name) -> None:
    pde, u0, params = CASES[name]
    u0, names = u0[:1], list(params)
    values = [v[:1] if v.ndim and len(v) == 2 else v for v in params.values()]

    def residual(a, b, *values):
        return pde.residual(a, b, dict(zip(names, values, strict=True))) * pde.dt

    inputs = [t.clone().requires_grad_() for t in (u0, 1.01 * u0, *values)]
    assert torch.autograd.gradcheck(residual, inputs, fast_mode=True)


@pytest.mark.parametrize("policy", ["uniform", "revolve"])
@pytest.mark.parametrize("name", ["vorticity-spectral-etdrk4", "fitzhugh-crank_nicolson", "heat-rk4",
                                  "sorption-implicit_euler"])  # fmt: skip
def test_checkpointed_rollouts_equal_stored_ones(name, policy) -> None:
    pde, u0, params = CASES[name]
    gradients = []
    for checkpoint in ("none", policy):
        leaves = {k: v.clone().requires_grad_() for k, v in {"u": u0, **params}.items()}
        state = pde.initial_state(leaves["u"])
        values = {k: leaves[k] for k in params}
        run = rollout(pde, state, 5, values, checkpoint=checkpoint, save_every=5)
        scalar(run.final.u).backward()
        gradients.append({k: v.grad for k, v in leaves.items()})
        assert run.final.t == pytest.approx(5 * pde.dt)
    for k, g in gradients[0].items():
        assert relative_error(gradients[1][k], g) < 1e-9, k


def test_a_checkpoint_around_a_newton_step_runs_it_twice_and_no_more(monkeypatch) -> None:
    """Graphs inside the solve must not wake the checkpoint's own."""
    pde, u0, params = CASES["sorption-implicit_euler"]
    counts, rhs = [], type(pde).rhs
    for policy in ("none", "uniform"):
        calls = []
        monkeypatch.setattr(type(pde), "rhs", lambda *a, c=calls: (c.append(1), rhs(*a))[1])
        state = pde.initial_state(u0.clone().requires_grad_())
        rollout(pde, state, 4, params, checkpoint=policy, save_every=4).final.u.sum().backward()
        counts.append(len(calls))
    assert counts[1] <= 2 * counts[0]


@every_pde
def test_steps_leave_their_arguments_alone(name) -> None:
    pde, u0, params = CASES[name]
    state = pde.initial_state(u0.clone())
    first = pde.step(state, None, params).u
    assert relative_error(state.u, u0) < 1e-14  # NavierStokes3D projects once more
    assert torch.equal(first, pde.step(state, None, params).u)


def test_errors_name_the_remedy() -> None:
    grid = Grid((8, 8))
    pde = NavierStokes2D(grid, 0.1)
    u = field(grid, n=1)
    with pytest.raises(InputError, match=r"u of shape \(B, 1, 8, 8\)"):
        pde.initial_state(u[0])
    with pytest.raises(InputError, match="subtract the mean"):
        pde.initial_state(u + 1)
    with pytest.raises(StateError, match="1 of 64 values not finite"):
        pde.initial_state(torch.where(torch.arange(64).reshape(1, 1, 8, 8) == 9, torch.nan, u))
    with pytest.raises(InputError, match="parameters out of"):
        pde.step(pde.initial_state(u), None, {"nu": 0.1})
    with pytest.raises(InputError, match="values >= 0"):
        pde.step(pde.initial_state(u), None, {"viscosity": -1.0})
    with pytest.raises(InputError, match="a number or"):
        pde.step(pde.initial_state(u), None, {"viscosity": torch.ones(3)})
    with pytest.raises(InputError, match="forcing.*a field"):
        pde.step(pde.initial_state(u), None, {"forcing": torch.ones(1, 4, 8)})
    with pytest.raises(InputError, match="FieldControl"):
        pde.step(pde.initial_state(u), u)
    with pytest.raises(InputError, match="dt > 0"):
        NavierStokes2D(grid, 0.0)
    with pytest.raises(InputError, match="scheme out of"):
        NavierStokes2D(grid, 0.1, scheme="euler")
    with pytest.raises(InputError, match='discretization "spectral"'):
        NavierStokes2D(grid, 0.1, discretization="weno")
    with pytest.raises(InputError, match="GasSolver"):
        NavierStokes2D(Grid((8, 8), sides="neumann"), 0.1)
    with pytest.raises(InputError, match="periodic 3-D"):
        NavierStokes3D(grid, 0.1)
    with pytest.raises(InputError, match="BurgersFV"):
        Burgers(Grid(8, sides="dirichlet"), 0.1)
    with pytest.raises(InputError, match='all "neumann"'):
        FitzHughNagumo(Grid((8, 8), sides="dirichlet"), 0.1)
    with pytest.raises(InputError, match='flux "central"'):
        BurgersFV(Grid(8, sides="dirichlet"), 0.1, flux="roe")


def test_sides_and_grids_are_checked() -> None:
    with pytest.raises(InputError, match="out of"):
        Grid(8, sides="reflecting")
    with pytest.raises(InputError, match=r"no \['x\+'\]"):
        Grid(8, sides={"x-": "dirichlet"})
    with pytest.raises(InputError, match="unknown"):
        Grid(8, sides={"x-": "neumann", "x+": "neumann", "y-": "neumann"})
    with pytest.raises(InputError, match="both sides periodic"):
        Grid(8, sides={"x-": "periodic", "x+": dirichlet()})
    with pytest.raises(InputError, match="ill-posed"):
        robin(1.0, -0.1)
    with pytest.raises(InputError, match="lengths > 0"):
        Grid(8, -1.0)
    with pytest.raises(InputError, match="cells of 1 to 3 axes"):
        Grid((8, 8, 8, 8))


@pytest.mark.parametrize(
    ("make", "u"),
    [
        (lambda dt: NavierStokes2D(Grid((16, 16)), dt), field(Grid((16, 16)), n=1)),
        (lambda dt: NavierStokes2D(Grid((16, 16)), dt, discretization="arakawa"),
         field(Grid((16, 16)), n=1)),
        (lambda dt: Burgers(Grid(16), dt, 0.0), field(Grid(16), n=1)),
        (lambda dt: Heat(Grid(16, sides="dirichlet"), dt, scheme="rk4"), field(Grid(16), n=1)),
        (lambda dt: FitzHughNagumo(Grid((8, 8)), dt), field(Grid((8, 8)), 2, n=1)),
    ],
)  # fmt: skip
def test_unstable_steps_raise_with_a_bound_that_holds(make, u) -> None:
    with pytest.raises(StabilityError, match="dt <= ") as error:
        pde = make(100.0)
        pde.step(pde.initial_state(u))
    bound = float(str(error.value).split("dt <= ")[1].split(" s")[0])
    pde = make(0.95 * bound)
    state = pde.initial_state(u)
    largest = float(u.abs().max())
    for _ in range(30):
        try:
            state = pde.step(state)
        except StabilityError:  # a flow that speeds up lowers its own bound
            break
        assert float(state.u.abs().max()) < 3 * largest

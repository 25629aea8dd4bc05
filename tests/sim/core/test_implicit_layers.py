"""Implicit layers: every solver and mode of derivative against closed forms, unrolling, differences."""

from __future__ import annotations

import gc

import pytest
import torch
from rheograd.sim.core.gradients import fd_check
from rheograd.sim.core.implicit import SolveInfo
from rheograd.sim.core.implicit_layers import implicit_argmin, implicit_fixed_point, implicit_root
from rheograd.sim.core.linalg import CG, GMRES
from rheograd.sim.core.projections import Ball, Box, NonNegative, Simplex, soft_threshold
from rheograd.sim.core.root_solvers import MINIMIZERS, ROOT_SOLVERS, Broyden
from torch import nn
from torch.autograd import forward_ad

F64 = torch.float64
TIGHT = 1e-11


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


M, A, B = random(3, 3, seed=1), random(3, seed=2), random(3, seed=3)


def residual(x, a, b):
    return x**3 + x + 0.3 * torch.tanh(M @ x) * a - b.sin()


def implicit(a, b):
    return implicit_root(residual, torch.zeros_like(a), a, b, tol=1e-12)


def unrolled(a, b):
    x = torch.zeros(3, dtype=F64)
    for _ in range(12):
        J = torch.func.jacrev(lambda v: residual(v, a, b))(x)
        x = x - torch.linalg.solve(J, residual(x, a, b))
    return x


def scalar(root):
    return lambda a, b: (root(a, b) ** 2 * torch.tensor([1.0, 2, 3], dtype=F64)).sum().sin()


def reverse(root, order=1):
    a = A.clone().requires_grad_()
    value = scalar(root)(a, B)
    for _ in range(order):
        value = torch.autograd.grad(value.sum(), a, create_graph=order > 1)[0]
    return value.detach()


def dual(root):
    with forward_ad.dual_level():
        x = root(forward_ad.make_dual(A, B), forward_ad.make_dual(B, A))
        return forward_ad.unpack_dual(x).tangent


def forward_over_reverse(root):
    a = A.clone().requires_grad_()
    with forward_ad.dual_level():
        d = forward_ad.make_dual(a, B)
        g = torch.autograd.grad(scalar(root)(d, B), d)[0]
        return forward_ad.unpack_dual(g).tangent


def reverse_over_forward(root):
    a = A.clone().requires_grad_()
    with forward_ad.dual_level():
        value = scalar(root)(forward_ad.make_dual(a, B), B)
        return torch.autograd.grad(forward_ad.unpack_dual(value).tangent, a)[0]


func = torch.func
MANY = random(4, 3, seed=4)
MODES = {
    "backward": reverse,
    "backward twice": lambda r: reverse(r, 2),
    "backward three times": lambda r: reverse(r, 3),
    "dual numbers": dual,
    "dual numbers over backward": forward_over_reverse,
    "backward over dual numbers": reverse_over_forward,
    "func.grad": lambda r: func.grad(scalar(r), (0, 1))(A, B)[1],
    "func.jvp": lambda r: func.jvp(r, (A, B), (B, A))[1],
    "jacrev": lambda r: func.jacrev(r)(A, B),
    "jacfwd": lambda r: func.jacfwd(r)(A, B),
    "hessian": lambda r: func.hessian(scalar(r))(A, B),
    "jacrev jacrev": lambda r: func.jacrev(func.jacrev(scalar(r)))(A, B),
    "jacfwd jacfwd": lambda r: func.jacfwd(func.jacfwd(scalar(r)))(A, B),
    "jacrev jacfwd": lambda r: func.jacrev(func.jacfwd(scalar(r)))(A, B),
    "vmap": lambda r: func.vmap(r, (0, None))(MANY, B),
    "vmap grad": lambda r: func.vmap(func.grad(scalar(r)), (0, None))(MANY, B),
    "grad vmap": lambda r: func.grad(lambda m: func.vmap(scalar(r), (0, None))(m, B).sum())(MANY),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_agrees_with_unrolling(mode):
    ours, theirs = MODES[mode](implicit), MODES[mode](unrolled)
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("solver", [*ROOT_SOLVERS, Broyden(memory=4)])
def test_every_root_solver_gives_the_same_derivative(solver):
    W = random(20, 20) / 10

    def f(x, p):
        return x + 0.4 * torch.tanh(W @ x * p["a"]) - p["b"][0]

    p = {"a": torch.tensor(1.3, dtype=F64), "b": (random(20, seed=1),)}
    info = SolveInfo()
    x0 = torch.zeros(20, dtype=F64)

    def value(p):
        return implicit_root(f, x0, p, solver=solver, tol=TIGHT, info=info).sin().sum()

    check = fd_check(value, p, 1, steps=(1e-4,))
    assert max(check.relative_errors) <= 1e-6
    assert 0 < info.iterations < 60 and info.residual <= TIGHT


def quartic(x, Q, b):
    return 0.5 * (x * (Q @ x[..., None])[..., 0]).sum(-1) - (b * x).sum(-1) + 0.1 * (x**4).sum(-1)


Q = (lambda R: R @ R.mT + torch.eye(6, dtype=F64))(random(4, 6, 6, seed=5))
START = torch.zeros(4, 6, dtype=F64)


@pytest.mark.parametrize("solver", list(MINIMIZERS))
def test_every_minimizer_in_a_batch(solver):
    def f(b):
        return implicit_argmin(quartic, START, Q, b, solver=solver, batch_dims=1, tol=1e-9)

    b = random(4, 6)
    assert max(fd_check(lambda b: f(b).sin().sum(), b, 1, steps=(1e-4,)).relative_errors) <= 1e-6
    alone = implicit_argmin(quartic, START[2], Q[2], b[2], solver=solver, tol=1e-9)
    torch.testing.assert_close(f(b)[2], alone, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    "projection", [Simplex(2.0), Box(-0.1, 0.1), NonNegative(), Ball(0.3)], ids=str
)
def test_projections(projection):
    def f(b):
        options = {"projection": projection, "batch_dims": 1, "step": 0.1, "tol": TIGHT}
        return implicit_argmin(quartic, START, Q, b, **options)

    b = random(4, 6)
    x = f(b)
    torch.testing.assert_close(projection(x), x)
    free = implicit_argmin(quartic, START, Q, b, batch_dims=1)
    assert not torch.allclose(free, x, atol=1e-3)
    check = fd_check(lambda b: f(b)[:, 0].sin().sum(), b, 1, steps=(1e-4,))
    assert max(check.relative_errors) <= 1e-6
    tangent = func.jvp(f, (b,), (b,))[1]
    torch.testing.assert_close(tangent, (f(b * (1 + 1e-5)) - x) / 1e-5, atol=1e-4, rtol=1e-4)


def test_projection_with_bounds_among_the_params():
    def f(p):
        def clip(x, p):
            return torch.minimum(x, p["top"])

        energy = lambda x, p: (x - p["m"]).square().sum()  # noqa: E731
        return implicit_argmin(energy, torch.zeros(3, dtype=F64), p, projection=clip, step=0.5)

    p = {"top": torch.tensor(0.5, dtype=F64), "m": torch.tensor([0.2, 0.7, 0.9], dtype=F64)}
    p = {k: v.requires_grad_() for k, v in p.items()}
    x = f(p)
    torch.testing.assert_close(x.detach(), torch.tensor([0.2, 0.5, 0.5], dtype=F64))
    grads = torch.autograd.grad(x.sum(), list(p.values()))
    torch.testing.assert_close(grads[0], torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(grads[1], torch.tensor([1.0, 0, 0], dtype=F64))


def test_lasso_by_its_proximal_operator():
    X = random(30, 8)
    y = X @ torch.tensor([1.0, 0, 0, 2, 0, 0, 0, -1], dtype=F64) + 0.1 * random(30, seed=1)

    def f(penalty):
        return implicit_argmin(
            lambda w, _: 0.5 * (X @ w - y).square().sum(),
            torch.zeros(8, dtype=F64),
            penalty,
            proximal=lambda w, step, penalty: soft_threshold(w, step * penalty),
            step=0.02,
            tol=1e-10,
        )

    penalty = torch.tensor(3.0, dtype=F64)
    w = f(penalty)
    active = w != 0
    assert active.sum() == 3
    # The closed form on the support S: dw_S/dλ = −(X_Sᵀ X_S)⁻¹ sign(w_S).
    exact = torch.zeros(8, dtype=F64)
    S = X[:, active]
    exact[active] = -torch.linalg.solve(S.T @ S, w[active].sign())
    torch.testing.assert_close(func.jacfwd(f)(penalty), exact)
    torch.testing.assert_close(func.jacrev(f)(penalty), exact)


def test_equality_constraints_by_kkt():
    def energy(x, c):
        return (x["u"] - c).square().sum() + x["u"].pow(4).sum()

    def total(x, c):
        return x["u"].sum() - c[0] ** 2

    def f(c):
        x0 = {"u": torch.zeros(3, dtype=F64)}
        return implicit_argmin(energy, x0, c, equality=total, tol=TIGHT)["u"]

    c = torch.tensor([1.0, 2, 3], dtype=F64)
    assert abs(float(f(c).sum()) - 1) < 1e-9
    assert torch.autograd.gradcheck(f, c.requires_grad_(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, c)
    with pytest.raises(RuntimeError, match="singular"):
        twice = lambda x, c: torch.stack([x.sum() - 1, 2 * x.sum() - 2])  # noqa: E731
        implicit_argmin(lambda x, c: (x - c).square().sum(), c.detach(), c, equality=twice)


class Deep(nn.Module):
    """z* = tanh(L z*) + x in the middle of a network, through `self`."""

    def __init__(self, deep):
        super().__init__()
        self.cell, self.read, self.spare = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(2, 2)
        self.deep = deep
        with torch.no_grad():
            self.cell.weight.mul_(0.5)

    def forward(self, x):
        def step(z, x):
            return torch.tanh(self.cell(z)) + x

        if self.deep:
            return self.read(
                implicit_fixed_point(step, torch.zeros_like(x), x, batch_dims=1, tol=TIGHT)
            )
        z = torch.zeros_like(x)
        for _ in range(80):
            z = step(z, x)
        return self.read(z)


def test_modules_are_differentiated_in_their_weights():
    torch.manual_seed(0)
    ours, theirs, x = Deep(True).double(), Deep(False).double(), random(5, 4)
    theirs.load_state_dict(ours.state_dict())
    before = [id(p) for p in ours.parameters()]
    for net in (ours, theirs):
        net(x).square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == name.startswith("spare")
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-9, rtol=1e-8)
    assert before == [id(p) for p in ours.parameters()]
    # The same cell as the function itself, as a parameter, and reached by two names.
    cell = ours.cell
    alike = [cell, lambda z: cell(z), lambda z, c: c(z), lambda z, p: p["twice"][1](z)]
    extra = [(), (), (cell,), ({"twice": [nn.ModuleList([cell]), cell]},)]
    for f, params in zip(alike, extra, strict=True):
        z = implicit_fixed_point(f, torch.zeros(4, dtype=F64), *params, tol=TIGHT)
        assert torch.autograd.grad(z.sum(), cell.weight)[0].norm() > 0.1
    weights = {k: v.detach() for k, v in ours.named_parameters()}
    total = func.grad(lambda w: func.functional_call(ours, w, (x,)).square().sum())(weights)
    torch.testing.assert_close(total["cell.weight"], theirs.cell.weight.grad, atol=1e-9, rtol=1e-8)


class Engine:
    """A residual with adjoints of its own: k x + x³ − f."""

    def __call__(self, x, p):
        return p["k"] * x + x**3 - p["f"]

    def vjp_x(self, x, p, u):
        return (p["k"] + 3 * x**2) * u

    def vjp_params(self, x, p, u):
        return {"k": (u * x).sum(), "f": -u}


def test_an_engine_has_one_derivative_in_reverse_mode():
    p = {"k": torch.tensor(0.7, dtype=F64), "f": random(5)}

    def f(p):
        x = implicit_root(Engine(), torch.zeros(5, dtype=F64), p, structure="spd", tol=TIGHT)
        return x.sin().sum()

    assert max(fd_check(f, p, 2, steps=(1e-4,)).relative_errors) <= 1e-6
    with pytest.raises(RuntimeError, match="one derivative in reverse mode"):
        func.jvp(lambda k: f({**p, "k": k}), (p["k"],), (p["k"],))
    with pytest.raises(RuntimeError, match="one derivative in reverse mode"):
        func.grad(lambda k: f({**p, "k": k}))(p["k"])


def test_linear_solves_have_their_own_solver_and_tolerance():
    info, b = SolveInfo(), random(6).requires_grad_()
    P = Q[0]
    for solver, structure in ((CG(tol=1e-2), "spd"), (GMRES(tol=1e-10), "general")):
        x = implicit_root(
            lambda x, b: P @ x - b, 0 * b, b, linear_solver=solver, structure=structure, info=info
        )
        x.sum().backward()
        assert (info.adjoint_residual > 1e-6) == (
            structure == "spd"
        ) and info.adjoint_iterations > 0
    x = implicit_root(lambda x, b: P @ x - b, 0 * b, b, linear_solver=GMRES(max_iterations=1))
    with pytest.raises(
        RuntimeError, match="adjoint: expected a linear solve to 1.0e-10; got .* after 1"
    ):
        x.sum().backward()


def test_memory_does_not_grow_with_iterations():
    """Bytes that autograd keeps, counted by its own hooks."""

    def kept(call):
        sizes: dict[int, int] = {}

        def pack(t):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            result = call()
        assert result.requires_grad
        gc.collect()
        return sum(sizes.values())

    W = (0.9 * torch.eye(50, dtype=F64)).requires_grad_()
    x = torch.ones(50, dtype=F64)

    def solved(iterations):
        def solver(T, z, W):
            for _ in range(iterations):
                z = T(z, W)
            return z

        return implicit_fixed_point(
            lambda z, W: torch.tanh(W @ z) + x, 0 * x, W, solver=solver, throw=False
        ).sum()

    def on_tape(iterations):
        z = 0 * x
        for _ in range(iterations):
            z = torch.tanh(W @ z) + x
        return z.sum()

    assert kept(lambda: solved(400)) == kept(lambda: solved(4))
    assert kept(lambda: on_tape(400)) > 5 * kept(lambda: on_tape(4))


def test_gradient_error_follows_the_tolerance():
    exact = reverse(unrolled)
    errors = []
    for tol in (1e-2, 1e-4, 1e-6, 1e-8):
        root = lambda a, b, t=tol: implicit_root(residual, 0 * a, a, b, solver="picard", tol=t)  # noqa: E731
        errors.append(float((reverse(root) - exact).norm()))
    assert all(e <= 3 * t for e, t in zip(errors, (1e-2, 1e-4, 1e-6, 1e-8), strict=True))
    assert errors[0] > 1e4 * errors[-1]

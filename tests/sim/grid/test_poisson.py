"""Poisson problems: every method, order of accuracy, null spaces, derivatives, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import fd_check, taylor_test
from rheograd.sim.grid.poisson import (
    METHODS,
    FaceSystem,
    IncompleteCholesky,
    PoissonProblem,
    PoissonSystem,
    Stencil,
    VCycle,
    axis_transform,
    solve_poisson,
    spectral,
)

F64 = torch.float64
SIDES = ["dirichlet", "neumann", "periodic", {"x-": "neumann"}]


def has_pyamg() -> bool:
    try:
        import pyamg  # noqa: F401
    except ImportError:
        return False
    return True


def centres(problem: PoissonProblem):
    rows = [
        h * (torch.arange(n, dtype=F64) + 0.5)
        for n, h in zip(problem.cells, problem.h, strict=True)
    ]
    return torch.meshgrid(*rows, indexing="ij")


def blocked(cells, generator) -> torch.Tensor:
    """A mask with a wall across, which makes two rooms, and scattered solid cells."""
    mask = torch.rand(cells, generator=generator) > 0.1
    mask[cells[0] // 2] = False
    mask[0], mask[-1] = True, True
    return mask


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("cells", [(9,), (8, 7), (5, 4, 6)])
def test_every_method_gives_the_pseudo_inverse(cells, sides, generator) -> None:
    mask = blocked(cells, generator)
    k = torch.rand(1, *cells, generator=generator, dtype=F64) + 0.5
    h = tuple(0.1 * (a + 1) for a in range(len(cells)))
    problems = [PoissonProblem(cells, h, sides, k, mask), PoissonProblem(cells, h, sides, 2.0)]
    for problem in problems:
        b = torch.randn(2, *cells, generator=generator, dtype=F64)
        b = PoissonSystem(problem, "cg", like=b).centre(b.flatten(1)).reshape(b.shape)
        A = Stencil(problem.cells, problem.periodic, problem.faces(b)).dense()[0]
        assert torch.equal(A, A.T)
        expected = (torch.linalg.pinv(A, hermitian=True) @ b.flatten(1).T).T
        for method in METHODS:
            if (method == "amg" and not has_pyamg()) or (method == "fft" and not problem.separable):
                continue
            found = solve_poisson(problem, b, method)
            torch.testing.assert_close(found.u.flatten(1), expected, rtol=1e-7, atol=1e-9)
            assert float(found.residual.max()) <= 1e-9
            if len(found.history):
                assert len(found.history) == int(found.iterations.max()) + 1
                assert float(found.history[-1].max()) <= 1e-10


@pytest.mark.parametrize(
    "lower,upper",
    [
        ("dirichlet", "dirichlet"),
        ("dirichlet", "neumann"),
        ("neumann", "dirichlet"),
        ("neumann", "neumann"),
        ("periodic", "periodic"),
    ],
)
def test_second_order_against_a_closed_form(lower, upper) -> None:
    """u = a wave that fits the sides, with two values given: errors fall with h², four levels."""
    wave = {"dirichlet": (2.0, 0.3), "neumann": (3.0, 0.7), "periodic": (2 * math.pi, 0.4)}[lower]
    errors = []
    for n in (16, 32, 64, 128):
        w, shift = wave
        values = {}
        if lower == "dirichlet":
            values["x-"] = math.sin(shift)
        elif lower == "neumann":
            values["x-"] = -w * math.cos(shift)  # k ∂u/∂n with n = −x
        if upper == "dirichlet":
            values["x+"] = math.sin(w + shift)
        elif upper == "neumann":
            values["x+"] = w * math.cos(w + shift)
        problem = PoissonProblem((n,), 1 / n, {"x-": lower, "x+": upper}, values=values)
        (x,) = centres(problem)
        u = torch.sin(w * x + shift)
        # Mean zero of f is broken by O(h²) where both sides are Neumann ones.
        found = solve_poisson(problem, w**2 * u, inconsistent="project").u
        if "dirichlet" not in (lower, upper):
            u = u - u.mean()
        errors.append(float((found - u).abs().max()))
    slope = np.polyfit(np.log([16, 32, 64, 128]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.2)


def test_a_jump_of_k_keeps_the_flux() -> None:
    """Two slabs in series, k = 1 and 100: the harmonic mean is exact, u linear in each."""
    n = 10
    k = torch.ones(1, n, 4, dtype=F64)
    k[:, n // 2 :] = 100.0
    sides = {"z-": "neumann", "z+": "neumann"}
    problem = PoissonProblem((n, 4), 1 / n, sides, k, values={"x-": 1.0})
    found = solve_poisson(problem, torch.zeros(n, 4, dtype=F64)).u
    (x, _), flux = centres(problem), 1 / (0.5 / 1 + 0.5 / 100)
    expected = torch.where(x < 0.5, 1 - flux * x, flux * (1 - x) / 100)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize(
    "pair",
    [("neumann",) * 2, ("dirichlet",) * 2, ("neumann", "dirichlet"), ("dirichlet", "neumann")]
    + [("periodic",) * 2],
)
def test_transforms_diagonalize_and_the_fast_form_agrees(n, pair, monkeypatch) -> None:
    problem = PoissonProblem((n,), 1.0, {"x-": pair[0], "x+": pair[1]})
    eye = torch.eye(n, dtype=F64)
    T = Stencil((n,), problem.periodic, problem.faces(eye)).dense()[0]
    for limit in (256, 1):
        monkeypatch.setattr(spectral, "DENSE", limit)
        axis = axis_transform(n, *pair)
        V = axis.forward(eye)
        torch.testing.assert_close(V.T @ V, eye, rtol=0, atol=1e-13)
        torch.testing.assert_close(T @ V, V * torch.as_tensor(axis.values), rtol=0, atol=1e-13)
        torch.testing.assert_close(axis.backward(V), eye, rtol=0, atol=1e-13)


def test_incomplete_cholesky_of_a_line_is_exact_and_matches_the_definition(generator) -> None:
    """A tridiagonal matrix has no fill-in, so M = A; in 2-D M equals A on the pattern of A."""
    line = PoissonProblem((12,), 0.1, k=torch.rand(1, 12, generator=generator, dtype=F64) + 0.1)
    plane = PoissonProblem((6, 5), 0.1, k=torch.rand(1, 6, 5, generator=generator, dtype=F64) + 0.1)
    for problem in (line, plane):
        like = torch.zeros((), dtype=F64)
        stencil = Stencil(problem.cells, problem.periodic, problem.faces(like))
        A, n = stencil.dense()[0], stencil.diagonal.numel()
        M = torch.linalg.inv(IncompleteCholesky(stencil)(torch.eye(n, dtype=F64)))
        pattern = torch.ones_like(A, dtype=torch.bool) if problem is line else A != 0
        torch.testing.assert_close(M[pattern], A[pattern], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sides", SIDES)
def test_the_residual_is_zero_at_the_solution_and_differentiable(sides, generator) -> None:
    cells = (6, 5)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=F64)  # noqa: E731
    mask = torch.ones(cells, dtype=torch.bool)
    mask[2, 3] = False
    names = [axis + end for axis in "xz" for end in "-+"]
    given = {n: 0.3 for n in names if PoissonProblem(cells, sides=sides).pairs["xz".index(n[0])][
        n[1] == "+"] == "dirichlet"}  # fmt: skip
    k = 0.5 + draw(2, *cells).square()
    problem = PoissonProblem(cells, (0.2, 0.3), sides, k, mask, given)
    b = draw(2, *cells)
    b = b * mask
    b = b - mask * b.sum((1, 2), keepdim=True) / mask.sum()  # no net source
    found = solve_poisson(problem, b, "direct")
    scale = problem.residual(b, 0 * b).abs().max()
    assert float(problem.residual(b, found.u).abs().max() / scale) < 1e-9
    u = draw(2, *cells)
    R = problem.residual(b, u)
    assert bool((R[:, 2, 3] == 0).all()) and problem.residual(b[0], u[0].float()).shape == R.shape
    one = PoissonProblem(cells, sides=sides)
    assert one.residual(b[0], u[0]).shape == cells

    def loss(t):
        values = {n: t["value"] for n in given}
        problem = PoissonProblem(cells, (0.2, 0.3), sides, t["k"], mask, values)
        return problem.residual(t["b"], t["u"]).square().sum()

    tree = {"k": k, "b": b, "u": u, "value": torch.tensor(0.3, dtype=F64)}
    assert taylor_test(loss, tree, eps0=1e-3, levels=4).passed()
    with pytest.raises(InputError, match=r"residual: expected u of \(B, \*\(6, 5\)\)"):
        problem.residual(b, u[..., :4])


@pytest.mark.parametrize("method", ["fft", "multigrid", "direct", "ic"])
def test_taylor_in_right_hand_side_and_values(method, generator) -> None:
    b = torch.randn(2, 6, 5, generator=generator, dtype=F64)
    side = torch.randn(2, 5, generator=generator, dtype=F64)
    goal = torch.randn(2, 6, 5, generator=generator, dtype=F64)

    def loss(v):
        sides = {"z-": "neumann", "z+": "neumann"}
        problem = PoissonProblem((6, 5), 0.2, sides, 1.5, values={"x+": v["side"], "z-": 0.3})
        return ((solve_poisson(problem, v["b"], method, 1e-12).u - goal) ** 3).sum()

    assert taylor_test(loss, {"b": b, "side": side}, eps0=1e-3, levels=4).passed()


@pytest.mark.parametrize("sides", ["dirichlet", "neumann", "periodic"])
def test_gradient_in_k(sides, generator) -> None:
    """At cells and at faces, with obstacles and closed rooms, one k per scene."""
    cells = (7, 6)
    mask = blocked(cells, generator)
    k = torch.rand(2, *cells, generator=generator, dtype=F64) + 0.5
    b = torch.randn(2, *cells, generator=generator, dtype=F64)
    faces = PoissonProblem(cells, 0.2, sides)
    on_faces = tuple(
        torch.rand(2, *faces.face_shape(a), generator=generator, dtype=F64) + 0.5 for a in (0, 1)
    )
    for start in (k, on_faces):

        def loss(k):
            problem = PoissonProblem(cells, 0.2, sides, k, mask)
            found = solve_poisson(problem, b, "multigrid", 1e-12, inconsistent="project")
            return (found.u**3).sum()

        report = fd_check(loss, start, 3)
        assert report.failure == "ok" and max(report.relative_errors) < 1e-6
        assert taylor_test(loss, start, eps0=1e-3, levels=4).passed()


def test_rooms_have_their_own_mean_and_a_net_source_is_an_error(generator) -> None:
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    mask[1, 4] = False
    problem = PoissonProblem((8, 8), 1.0, "neumann", mask=mask)
    b = torch.randn(2, 8, 8, generator=generator, dtype=F64)
    with pytest.raises(InputError, match=r"Σ f = 0.*region of .* cells of scene 0"):
        solve_poisson(problem, b)
    found = solve_poisson(problem, b, inconsistent="project")
    for room in (found.u[0], found.u[1, :4], found.u[1, 5:]):
        assert abs(float(room.mean())) < 1e-12
    assert float(found.u[1, 4].abs().max()) == 0.0
    b[0] -= b[0].mean()
    with pytest.raises(InputError, match="of scene 1"):
        solve_poisson(problem, b)  # balanced as a whole, not in each room
    system = PoissonSystem(problem, "cg", like=b)
    assert isinstance(system, FaceSystem) and system.closed_count == 3


def test_batch_equals_the_loop_and_precision_is_kept(generator) -> None:
    mask = torch.rand(3, 10, 9, generator=generator) > 0.15
    b = torch.randn(3, 10, 9, generator=generator)
    together = solve_poisson(PoissonProblem((10, 9), 0.1, mask=mask), b)
    assert together.u.dtype == torch.float32 and together.method == "multigrid"
    for i in range(3):
        alone = solve_poisson(PoissonProblem((10, 9), 0.1, mask=mask[i]), b[i])
        torch.testing.assert_close(alone.u, together.u[i], rtol=1e-4, atol=1e-6)
    first = solve_poisson(PoissonProblem((10, 9), 0.1, mask=mask), b, x0=together.u)
    assert int(first.iterations.max()) < int(together.iterations.min())


def test_a_function_as_method_and_no_convergence(generator) -> None:
    b = torch.randn(16, 16, generator=generator, dtype=F64)
    problem = PoissonProblem((16, 16), 1 / 16)
    found = solve_poisson(problem, b, lambda system: VCycle(system.stencil))
    torch.testing.assert_close(found.u, solve_poisson(problem, b).u, rtol=1e-8, atol=1e-10)
    assert found.seconds["solve"] > 0 and found.method == "own"
    with pytest.raises(ConvergenceError, match="after 2 iterations"):
        solve_poisson(problem, b, "cg", max_iterations=2)


def test_wrong_input() -> None:
    b = torch.zeros(4, 4)
    problem = PoissonProblem((4, 4))
    for match, make in {
        "sides": lambda: PoissonProblem((4, 4), sides={"y-": "neumann"}),
        "out of": lambda: PoissonProblem((4, 4), sides="robin"),
        "both sides periodic": lambda: PoissonProblem((4, 4), sides={"x-": "periodic"}),
        "1 to 3 axes": lambda: PoissonProblem((4, 4, 4, 4)),
        "h > 0": lambda: PoissonProblem((4, 4), 0.0),
        "k > 0": lambda: PoissonProblem((4, 4), k=torch.zeros(1, 4, 4)),
        "k of": lambda: PoissonProblem((4, 4), k=torch.ones(4, 4)),
        "faces": lambda: PoissonProblem((4, 4), k=(torch.ones(1, 4, 4),) * 2),
        "finite k > 0": lambda: PoissonProblem((4, 4), k=torch.full((1, 4, 4), torch.inf)),
        "got nan": lambda: PoissonProblem((4, 4), k=torch.nan),
        "mask bool": lambda: PoissonProblem((4, 4), mask=torch.ones(4, 4)),
        "active": lambda: PoissonProblem((4, 4), mask=torch.zeros(4, 4, dtype=torch.bool)),
        "mean out of": lambda: PoissonProblem((4, 4), mean="median"),
        "periodic side": lambda: PoissonProblem((4, 4), sides="periodic", values={"x-": 1.0}),
        "values of": lambda: PoissonProblem((4, 4), values={"left": 1.0}),
        "method out of": lambda: solve_poisson(problem, b, "sor"),
        "no mask": lambda: solve_poisson(PoissonProblem((4, 4), k=torch.ones(1, 4, 4)), b, "fft"),
        "b of": lambda: solve_poisson(problem, torch.zeros(4, 5)),
        "inconsistent": lambda: solve_poisson(problem, b, inconsistent="ignore"),
        "finite values of the sides": lambda: solve_poisson(
            PoissonProblem((4, 4), values={"x-": torch.nan}), b
        ),
    }.items():
        with pytest.raises(InputError, match=match):
            make()
    b[2, 3] = torch.nan
    for method in ("fft", "multigrid", "ic", "cg", "direct"):
        with pytest.raises(
            InputError, match=r"finite b; got 1 cells without, the first at \(2, 3\)"
        ):
            solve_poisson(problem, b, method)

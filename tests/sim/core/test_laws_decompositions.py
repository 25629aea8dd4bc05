"""Decompositions with derivatives at the points where eigenvectors have none."""

from __future__ import annotations

import pytest
import torch
from helpers import random_rotations
from rheograd.sim.core.laws.decompositions import (
    isotropic_function,
    log_frame,
    log_slopes,
    log_strain,
    polar_rotation,
    stretch_by,
    stretch_slopes,
)
from torch.autograd import gradcheck, gradgradcheck


def matrices(generator) -> torch.Tensor:
    """Rest, rotation, two equal, all equal, nearly equal (1e-5, 1e-9), generic, far stretched."""
    Q = random_rotations(8, generator=generator)
    P = random_rotations(8, generator=generator)
    s = torch.tensor(
        [
            [1, 1, 1],
            [1, 1, 1],
            [1.3, 1.3, 0.7],
            [0.6, 0.6, 0.6],
            [1.1, 1.1 + 1e-5, 0.9],
            [1.1, 1.1 + 1e-9, 0.9],
            [1.4, 1.0, 0.5],
            [3.0, 1.0, 0.2],
        ],
        dtype=torch.float64,
    )
    Q[0] = P[0] = torch.eye(3, dtype=torch.float64)
    return (Q * s[:, None]) @ P


def test_polar_rotation(generator):
    F = matrices(generator)
    R = polar_rotation(F)
    eye = torch.eye(3, dtype=torch.float64).expand(8, 3, 3)
    torch.testing.assert_close(R @ R.mT, eye, rtol=0, atol=1e-14)
    S = R.mT @ F
    torch.testing.assert_close(S, S.mT, rtol=0, atol=1e-14)
    assert (torch.linalg.eigvalsh(S) > 0).all()
    assert gradcheck(polar_rotation, F.requires_grad_())
    assert gradgradcheck(polar_rotation, F)


@pytest.mark.parametrize("spread", [1e2, 1e4])
def test_polar_rotation_of_badly_conditioned_matrices(spread, generator):
    U, V = random_rotations(2, 200, generator=generator)
    s = spread ** -torch.rand(200, 3, generator=generator, dtype=torch.float64)
    F = (U * s[:, None]) @ V
    # Round-off of F itself moves R by the inverse of the two smallest stretches.
    tolerance = 1e-15 * spread
    torch.testing.assert_close(polar_rotation(F), U @ V, rtol=0, atol=10 * tolerance)


def test_single_precision_forward(generator):
    U, V = random_rotations(2, 2000, generator=generator)
    s = torch.exp(0.3 * torch.randn(2000, 3, generator=generator, dtype=torch.float64))
    F = (U * s[:, None]) @ V
    R = polar_rotation(F.float())
    E = log_strain(F.float())
    assert float((R - polar_rotation(F)).abs().max()) < 2e-6
    assert float((E - log_strain(F)).abs().max()) < 5e-6


def test_log_strain(generator):
    F = matrices(generator)
    U, s, _ = torch.linalg.svd(F)
    torch.testing.assert_close(log_strain(F), (U * s.log()[:, None]) @ U.mT, rtol=0, atol=1e-14)
    assert gradcheck(log_strain, F.requires_grad_())


def test_log_strain_gradient_is_the_closed_form_at_rest():
    """At F = I the strain is the symmetric part: the adjoint symmetrizes."""
    F = torch.eye(3, dtype=torch.float64, requires_grad=True)
    weight = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    (grad,) = torch.autograd.grad((weight * log_strain(F)).sum(), F)
    torch.testing.assert_close(grad, 0.5 * (weight + weight.T), rtol=0, atol=1e-15)


def test_stretch_by(generator):
    F = matrices(generator)
    k = torch.linspace(-1, 0.5, 8, dtype=torch.float64)
    q = torch.linspace(-0.2, 0.3, 8, dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(F)
    eps = s.log()
    new = eps + k[:, None] * (eps - eps.mean(-1, keepdim=True)) + q[:, None]
    expected = (U * new.exp()[:, None]) @ Vh
    torch.testing.assert_close(stretch_by(F, log_frame(F), k, q), expected, rtol=0, atol=1e-13)
    leaves = [t.requires_grad_() for t in (F, k, q)]
    assert gradcheck(lambda F, k, q: stretch_by(F, log_frame(F), k, q), leaves)


def test_slopes_keep_full_precision(generator):
    """Divided differences over gaps from 0 to 1 against the same quotient in exact arithmetic."""
    from fractions import Fraction

    base, gaps = 1.7, [0.0, 1e-15, 1e-9, 1e-5, 0.01, 0.3, 0.34, 0.36, 1.0, 5.0]
    for gap in gaps:
        lam = torch.tensor([base, base + gap, 2.5], dtype=torch.float64)
        a, b = float(lam[0]), float(lam[1])
        if a == b:
            expected = 0.5 / a
        else:
            # 0.5 log(b/a)/(b - a) by the series of artanh with a rational argument.
            z = (Fraction(b) - Fraction(a)) / (Fraction(b) + Fraction(a))
            z2, total = float(z * z), 0.0
            for n in range(400, -1, -1):
                total = total * z2 + 1 / (2 * n + 1)
            expected = total / (a + b)
        assert float(log_slopes(lam)[0]) == pytest.approx(expected, rel=1e-14)
    # For k = 2, g is proportional to lam, so every divided difference is the same constant.
    lam = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    slopes = stretch_slopes(lam, 0.7 * lam, torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(slopes, torch.full((3,), 0.7, dtype=torch.float64))


def test_isotropic_function_of_any_torch_function(generator):
    F = matrices(generator).requires_grad_()
    weight = torch.tensor([0.3, 1.2], dtype=torch.float64, requires_grad=True)

    def principal(s, w):
        return torch.sin(w[0] * s) + w[1] * s.prod(-1, keepdim=True) / s

    def f(F, w):
        return isotropic_function(F, lambda s: principal(s, w))

    U, s, Vh = torch.linalg.svd(F.detach())
    expected = (U * principal(s, weight)[:, None]) @ Vh
    torch.testing.assert_close(f(F, weight), expected, rtol=0, atol=1e-13)
    assert gradcheck(f, (F, weight))


def test_isotropic_function_with_constant_values(generator):
    """f = 1 is the polar rotation."""
    F = matrices(generator).requires_grad_()
    torch.testing.assert_close(isotropic_function(F, torch.ones_like), polar_rotation(F))
    assert gradcheck(lambda F: isotropic_function(F, torch.ones_like), F)


@pytest.mark.parametrize("function", [polar_rotation, log_strain])
def test_inverted_matrices_are_flagged_and_others_untouched(function, generator):
    F = matrices(generator)
    F[1] = -F[1]
    F[2] = 0.0
    result = function(F)
    assert torch.isnan(result[1:3]).all()
    assert torch.isfinite(result[3:]).all()


def test_second_derivatives_of_spectral_functions_are_refused(generator):
    F = matrices(generator)[-1].requires_grad_()
    (grad,) = torch.autograd.grad(log_strain(F).square().sum(), F, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(grad.sum(), F)
    frame = log_frame(F)
    (grad,) = torch.autograd.grad(frame.eps[0], F, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


def test_functions_work_under_vmap(generator):
    F = matrices(generator)
    for function in (polar_rotation, log_strain):
        torch.testing.assert_close(torch.vmap(function)(F), function(F), rtol=0, atol=1e-14)

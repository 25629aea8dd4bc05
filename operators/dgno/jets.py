"""Values and derivatives of fields at points, carried forward: f, ∂_i f, ∂_i ∂_j f in one tensor.

A jet of order 2 in D coordinates is (S, ...) with S = 1 + D + D (D + 1)/2 rows: f; ∂_0 f … ; ∂_0∂_0 f,
∂_0∂_1 f … in the order of `itertools.combinations_with_replacement`. Order 1 leaves the last group out,
order 0 holds f alone. Differentiable everywhere. Source: Griewank & Walther 2008, chapter 13 (forward
propagation of Taylor coefficients).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["ACTIVATIONS", "activate", "function_jet", "jet_product", "jet_rows", "pairs"]


def pairs(dim: int) -> list[tuple[int, int]]:
    """Indices (i, j), i ≤ j, of the second derivatives in the order in which jets hold them."""
    return list(itertools.combinations_with_replacement(range(dim), 2))


def jet_rows(dim: int, order: int) -> int:
    """S, rows of a jet.

    Raises:
        InputError: an order other than 0, 1, 2.
    """
    if order not in (0, 1, 2):
        raise InputError(message("jet_rows", "order 0, 1 or 2", order, "Choose one"))
    return 1 + (dim if order > 0 else 0) + (len(pairs(dim)) if order > 1 else 0)


def jet_product(a: Tensor, b: Tensor, dim: int, order: int) -> Tensor:
    """Jet of the product of two fields, (S, ...) twice, shapes that broadcast → (S, ...).

    Args:
        a, b: jets of one order.
        dim: D.
        order: 0, 1 or 2.

    Differentiable in both. Source: Leibniz's rule.
    """
    rows = [a[0] * b[0]]
    if order > 0:
        rows += [a[0] * b[1 + i] + a[1 + i] * b[0] for i in range(dim)]
    if order > 1:
        for k, (i, j) in enumerate(pairs(dim), 1 + dim):
            rows.append(a[0] * b[k] + a[1 + i] * b[1 + j] + a[1 + j] * b[1 + i] + a[k] * b[0])
    return torch.stack(rows)


def function_jet(f: Callable[[Tensor], Tensor], x: Tensor, order: int) -> Tensor:
    """Jet (S, ...) of a function of points, (..., D) → (...), by forward derivatives.

    Args:
        f: of torch's functions, point by point.
        x: points (..., D).
        order: 0, 1 or 2.

    Raises:
        InputError: a function that does not give one number per point.

    Differentiable in x. Source: Griewank & Walther 2008.
    """
    D = x.shape[-1]

    def along(g: Callable[[Tensor], Tensor], d: int) -> Callable[[Tensor], Tensor]:
        step = torch.eye(D, dtype=x.dtype, device=x.device)[d].expand(x.shape)
        return lambda y: torch.func.jvp(g, (y,), (step,))[1]

    value = f(x)
    if value.shape != x.shape[:-1]:
        expected = f"a function of points {tuple(x.shape)} ↦ {tuple(x.shape[:-1])}"
        raise InputError(message("function_jet", expected, value, "Give one number per point"))
    rows = [value]
    first = [along(f, i) for i in range(D)]
    if order > 0:
        rows += [g(x) for g in first]
    if order > 1:
        rows += [along(first[i], j)(x) for i, j in pairs(D)]
    return torch.stack(rows)


def _tanh(z: Tensor, order: int) -> list[Tensor]:
    s = torch.tanh(z)
    if order == 0:
        return [s]
    slope = 1 - s.square()
    return [s, slope] if order == 1 else [s, slope, -2 * s * slope]


def _silu(z: Tensor, order: int) -> list[Tensor]:
    p = torch.sigmoid(z)
    if order == 0:
        return [z * p]
    slope = p * (1 + z * (1 - p))
    return [z * p, slope] if order == 1 else [z * p, slope, p * (1 - p) * (2 + z * (1 - 2 * p))]


def _of_sine(outer: Callable[[Tensor, int], list[Tensor]], z: Tensor, order: int) -> list[Tensor]:
    """outer(sin(π (z + 1))) + z."""
    g = -torch.sin(math.pi * z)
    f = outer(g, order)
    rows = [f[0] + z]
    if order > 0:
        g1 = -math.pi * torch.cos(math.pi * z)
        rows.append(f[1] * g1 + 1)
        if order > 1:
            rows.append(f[2] * g1.square() - math.pi**2 * f[1] * g)
    return rows


def _silu_id(z: Tensor, order: int) -> list[Tensor]:
    rows = _silu(z, order)
    return [rows[0] + z, *(row + 1 for row in rows[1:2]), *rows[2:]]


def _sinc(z: Tensor, order: int) -> list[Tensor]:
    sin, cos = torch.sin(z), torch.cos(z)
    rows = [z * sin, sin + z * cos, 2 * cos - z * sin]
    return rows[: order + 1]


ACTIVATIONS: dict[str, Callable[[Tensor, int], list[Tensor]]] = {
    "tanh_sin": lambda z, order: _of_sine(_tanh, z, order),
    "silu_sin": lambda z, order: _of_sine(_silu, z, order),
    "silu_id": _silu_id,
    "silu": _silu,
    "tanh": _tanh,
    "sinc": _sinc,
}
"""σ with as many derivatives as asked for: tanh(sin π(z+1)) + z, silu(sin π(z+1)) + z, silu(z) + z,
silu(z), tanh(z), z sin z. Source: released code of DGenNO (its names, not those of the literature)."""


def activate(name: str, z: Tensor, dim: int, order: int) -> Tensor:
    """Jet of σ(f) from the jet of f, (S, ...) → (S, ...).

    Args:
        name: out of `ACTIVATIONS`.
        z: jet.
        dim: D.
        order: 0, 1 or 2.

    Differentiable in z. Source: the chain rule.
    """
    rows = ACTIVATIONS[name](z[0], order)
    if order == 0:
        return rows[0][None]
    out = [rows[0][None], rows[1] * z[1 : 1 + dim]]
    if order > 1:
        i, j = zip(*pairs(dim), strict=True)
        products = z[[1 + k for k in i]] * z[[1 + k for k in j]]
        out.append(rows[2] * products + rows[1] * z[1 + dim :])
    return torch.cat(out)

"""Norms of fields and relative errors between them, one value per sample and channel.

Fields are (B, C, *cells) on a box; norms are means over the box, so they do not depend on the grid:

    ‖f‖_p = (mean |f|^p)^{1/p},    ‖f‖²_{H¹} = ‖f‖₂² + Σ_d ‖∂_d f‖₂²

Derivatives are differences of neighbours, taken at the faces between them: of second order, and without
the blindness of central differences to what alternates from cell to cell. A relative error of 0 is
not differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["h1_norm", "lp_norm", "relative_h1", "relative_l2", "relative_lp"]


def lp_norm(f: Tensor, p: float = 2.0) -> Tensor:
    """(mean |f|^p)^{1/p} over the cells, (B, C, *cells) → (B, C) in the unit of f.

    Args:
        f: fields.
        p: order ≥ 1, `math.inf` for the largest value.

    Differentiable in f where f ≠ 0.
    """
    flat = f.flatten(2)
    if p == float("inf"):
        return flat.abs().amax(-1)
    return torch.linalg.vector_norm(flat, p, dim=-1) / flat.shape[-1] ** (1 / p)


def h1_norm(
    f: Tensor, length: float | Sequence[float] = 1.0, periodic: bool | Sequence[bool] = False
) -> Tensor:
    """(‖f‖₂² + Σ_d ‖∂_d f‖₂²)^½, (B, C, *cells) → (B, C) in the unit of f for lengths without one.

    Args:
        f: fields, at least two cells on each axis.
        length: of the box, or of each axis [m].
        periodic: whether the box, or each axis, closes on itself.

    Raises:
        InputError: lengths or flags of another number of axes.

    Differentiable in f where f ≠ 0.
    """
    dim = f.ndim - 2
    lengths = [float(length)] * dim if isinstance(length, int | float) else list(length)
    closed = [periodic] * dim if isinstance(periodic, bool) else list(periodic)
    if len(lengths) != dim or len(closed) != dim or min(f.shape[2:]) < 2:
        raise InputError(
            message("h1_norm", f"a length and a flag for each of {dim} axes with at least 2 cells",
                    f"{lengths}, {closed} for cells {tuple(f.shape[2:])}", "Give one number for all")
        )  # fmt: skip
    total = f.flatten(2).square().mean(-1)
    for axis, (side, closes) in enumerate(zip(lengths, closed, strict=True), 2):
        step = f.roll(-1, axis) - f if closes else f.diff(dim=axis)
        slope = step * (f.shape[axis] / side)
        total = total + slope.flatten(2).square().mean(-1)
    return total.sqrt()


def relative_lp(value: Tensor, reference: Tensor, p: float = 2.0) -> Tensor:
    """‖value − reference‖_p / ‖reference‖_p, (B, C, *cells) twice → (B, C).

    Raises:
        InputError: shapes differ, or a reference that vanishes (name its sample and channel).
    """
    return _ratio("relative_lp", lp_norm(_difference(value, reference), p), lp_norm(reference, p))


def relative_l2(value: Tensor, reference: Tensor) -> Tensor:
    """`relative_lp` with p = 2."""
    return relative_lp(value, reference)


def relative_h1(
    value: Tensor,
    reference: Tensor,
    length: float | Sequence[float] = 1.0,
    periodic: bool | Sequence[bool] = False,
) -> Tensor:
    """‖value − reference‖_{H¹} / ‖reference‖_{H¹}; see `h1_norm` and `relative_lp`."""
    error = h1_norm(_difference(value, reference), length, periodic)
    return _ratio("relative_h1", error, h1_norm(reference, length, periodic))


def _difference(value: Tensor, reference: Tensor) -> Tensor:
    if value.shape != reference.shape:
        raise InputError(
            message("relative error", f"fields of the shape of the reference {tuple(reference.shape)}",
                    value, "Match channels and cells")
        )  # fmt: skip
    return value - reference


def _ratio(where: str, error: Tensor, size: Tensor) -> Tensor:
    if not bool((size > 0).all()):
        sample, channel = (~(size > 0)).nonzero()[0].tolist()
        raise InputError(
            message(where, "references other than zero", f"‖reference‖ = {float(size[sample, channel])} "
                    f"in sample {sample}, channel {channel}", "Leave it out, or use lp_norm")
        )  # fmt: skip
    return error / size

"""Weak forms with small test functions: radial functions around random centres, and their quadrature.

    φ_j(x) = ϕ(|x − x_j|/R_j),  ϕ(r) = (1 − r)^{l+2} [(l² + 4l + 3) r² + (3l + 6) r + 3]/3,  l = ⌊D/2⌋ + 3

Wendland's ϕ is C⁴ and vanishes with two derivatives at r = 1; `TEST_FUNCTIONS` has others. Weights are
those of averages:

    ∫ f φ_j / ∫ φ_j ≈ Σ_q w_q f(x_q),        ∫ s·∇φ_j / ∫ φ_j ≈ Σ_q g_q · s(x_q)

so that the residual Σ g·s − Σ w f of −∇·s = f is an average of −(∇·s + f), in the unit of f.
Differentiable in points. Source: Wendland 1995; Zang & Koutsourelakis 2025 (DGenNO), released code; the
correction of g is ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = [
    "TEST_FUNCTIONS",
    "Particles",
    "TestFunctions",
    "bump",
    "jittered",
    "raised_cosine",
    "wendland",
    "wendland_power",
]


def wendland(y: Tensor) -> tuple[Tensor, Tensor]:
    """ϕ(|y|) and its gradient in y: (..., D) → (...), (..., D); zero where |y| ≥ 1.

    ∇ϕ = −(1 − r)^{l+1} [(l³ + 8l² + 19l + 12) r + (l² + 7l + 12)]/3 · y

    Args:
        y: (x − x_j)/R_j.

    Differentiable in y. Source: Wendland 1995.
    """
    l = y.shape[-1] // 2 + 3  # noqa: E741
    r = torch.linalg.vector_norm(y, dim=-1)
    gap = (1 - r).clamp(min=0)
    phi = gap ** (l + 2) * ((l**2 + 4 * l + 3) * r**2 + (3 * l + 6) * r + 3) / 3
    slope = -(gap ** (l + 1)) * ((l**3 + 8 * l**2 + 19 * l + 12) * r + l**2 + 7 * l + 12) / 3
    return phi, slope[..., None] * y


def wendland_power(y: Tensor, k: int = 4) -> tuple[Tensor, Tensor]:
    """ϕ(|y|)^k of Wendland's ϕ and its gradient, as `wendland`: narrower, and flatter at the rim.

    Args:
        y: (x − x_j)/R_j, (..., D).
        k: power.

    Differentiable in y. Source: released code of DGenNO ("Wendland_k").
    """
    phi, slope = wendland(y)
    return phi**k, (k * phi ** (k - 1))[..., None] * slope


def bump(y: Tensor) -> tuple[Tensor, Tensor]:
    """e^{1 − 1/(1 − r²)} and its gradient −2 y ϕ/(1 − r²)², as `wendland`; C^∞.

    Args:
        y: (x − x_j)/R_j, (..., D).

    Differentiable in y. Source: released code of DGenNO ("Bump").
    """
    square = y.square().sum(-1)
    inside = square < 1
    gap = torch.where(inside, 1 - square, 1.0)  # a number that the rim cannot spoil
    phi = torch.where(inside, torch.exp(1 - 1 / gap), 0.0)
    return phi, (-2 * phi / gap.square())[..., None] * y


def raised_cosine(y: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + cos πr)/2 and its gradient −(π²/2) sinc(r) y, as `wendland`; C¹ at the rim.

    Args:
        y: (x − x_j)/R_j, (..., D).

    Differentiable in y. Source: released code of DGenNO ("Cosin", of which this is π/2 times).
    """
    square = y.square().sum(-1)
    inside = square < 1
    # The root of zero has no slope; r enters sinc and cos evenly, so nothing is lost by the floor.
    r = torch.where(inside, square, 0.25).clamp_min(1e-30).sqrt()
    phi = torch.where(inside, 0.5 * (1 + torch.cos(math.pi * r)), 0.0)
    slope = torch.where(inside, -0.5 * math.pi**2 * torch.sinc(r), 0.0)
    return phi, slope[..., None] * y


TEST_FUNCTIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "wendland": wendland,
    "power": wendland_power,
    "bump": bump,
    "cosine": raised_cosine,
}
"""Test functions by name, each with its gradient, in y = (x − x_j)/R_j."""


@dataclasses.dataclass(frozen=True)
class Particles:
    """Points and weights of n weak residuals."""

    x: Tensor
    """Points (n, q, D)."""
    weight: Tensor
    """w, (q,); sums to 1."""
    gradient: Tensor
    """g, (n, q, axes) [1/m], one component for each axis in which test functions vary."""

    @classmethod
    def single(cls, x: Tensor) -> Particles:
        """Points (n, D) without test functions: particles of one point each."""
        return cls(x[:, None], x.new_ones(1), torch.zeros_like(x)[:, None])

    @property
    def points(self) -> Tensor:
        """All points, (n·q, D)."""
        return self.x.flatten(0, 1)

    def average(self, f: Tensor) -> Tensor:
        """Σ_q w_q f(x_q), (..., n·q) → (..., n)."""
        return f.unflatten(-1, self.x.shape[:2]) @ self.weight

    def against(self, s: Sequence[Tensor]) -> Tensor:
        """Σ_q g_q · s(x_q) of the components of s, each (..., n·q) → (..., n)."""
        parts = [
            (v.unflatten(-1, self.x.shape[:2]) * self.gradient[..., a]).sum(-1)
            for a, v in enumerate(s)
        ]
        return torch.stack(parts).sum(0)


def jittered(
    counts: Sequence[int], lower: Tensor, upper: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """A random point in each box of a grid, (Π counts, D): means have less noise than over points
    anywhere.

    Args:
        counts: boxes per axis.
        lower, upper: corners of all of them (D,) [m].
        generator: of places.
    """
    place = "cpu" if generator is None else generator.device
    n = torch.tensor([int(k) for k in counts], device=place)
    corners = torch.cartesian_prod(*(torch.arange(int(k), device=place) for k in n))
    x = (corners + torch.rand(corners.shape, generator=generator, device=place)) / n
    return lower.to(x) + x * (upper - lower).to(x)


class TestFunctions:
    """Radial functions with an equally weighted rule in the ball, m points along its diameter.

    The rule differentiates exactly what is at most quadratic: g is scaled by the one number that makes
    Σ_q g_q ⊗ y_q = −1/R. Without it the published m = 7 is off by 1.2 % of f, for every R.

    Args:
        axes: number of axes in which test functions vary, 1 to 3; further coordinates, such as time,
            are the same in all points of a particle.
        points: m, per axis, at least 3.
        corrected: whether g is scaled.
        ends: points from −1 to 1 as published, where the outermost carry nothing, in place of
            (2k + 1)/m − 1, k = 0 … m − 1.
        kind: name out of `TEST_FUNCTIONS`.

    Raises:
        InputError: numbers out of range, an unknown name.

    Source: released code of DGenNO (particles).
    """

    __test__ = False  # not a test of pytest's

    def __init__(
        self,
        axes: int,
        points: int = 4,
        corrected: bool = True,
        ends: bool = False,
        kind: str = "wendland",
    ) -> None:
        if axes not in (1, 2, 3) or points < 3:
            got = f"{axes} axes, {points} points"
            raise InputError(message("TestFunctions", "1 to 3 axes, points >= 3", got, "Correct"))
        if kind not in TEST_FUNCTIONS:
            expected = f"kind out of {tuple(TEST_FUNCTIONS)}"
            raise InputError(message("TestFunctions", expected, kind, "Choose one"))
        k = torch.arange(points, dtype=torch.float64)
        line = 2 * k / (points - 1) - 1 if ends else (2 * k + 1) / points - 1
        y = torch.cartesian_prod(*[line] * axes).reshape(-1, axes)
        y = y[y.square().sum(1) < 1]
        phi, slope = TEST_FUNCTIONS[kind](y)
        self.axes, self.y, self.weight = axes, y, phi / phi.sum()
        self.gradient = slope / phi.sum()
        if corrected:
            self.gradient = self.gradient / -(self.gradient[:, 0] * y[:, 0]).sum()

    def sample(
        self,
        count: int,
        lower: Sequence[float],
        upper: Sequence[float],
        radius: float | tuple[float, float],
        generator: torch.Generator | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Particles:
        """Particles around a Latin hypercube of centres whose balls lie in a box.

        Args:
            count: n.
            lower, upper: corners of the box (D,) [m]; the first `axes` coordinates keep R from walls.
            radius: R [m], or the ends of the interval from which log R is drawn.
            generator: of centres and radii.
            keep: signed distance from what is left out, (n, D) → (n,) [m], negative inside: centres
                nearer than R are drawn again.
            dtype, device: of the result.

        Raises:
            InputError: a radius that does not fit in the box, or a `keep` that leaves nothing.
        """
        low, high = (torch.as_tensor(v, dtype=torch.float64) for v in (lower, upper))
        ends = radius if isinstance(radius, tuple) else (radius, radius)
        room = float((high - low)[: self.axes].min()) / 2
        if not 0 < ends[0] <= ends[1] < room:
            raise InputError(
                message("TestFunctions.sample", f"radii in (0, {room:g})", f"{ends}", "Lower them")
            )
        if count < 1:
            raise InputError(message("TestFunctions.sample", "count >= 1", count, "Raise it"))
        x, R = self._centres(count, low, high, ends, generator)
        if keep is not None:
            for _ in range(100):
                bad = keep(x) < R
                if not bool(bad.any()):
                    break
                x[bad], R[bad] = self._centres(int(bad.sum()), low, high, ends, generator)
            else:
                fix = "Lower the radius, or check the sign of keep"
                raise InputError(message("TestFunctions.sample", "room for particles", "none", fix))
        offset = torch.zeros(count, len(self.y), len(low), dtype=torch.float64)
        offset[..., : self.axes] = R[:, None, None] * self.y
        gradient = self.gradient / R[:, None, None]
        made = (x[:, None] + offset, self.weight, gradient)
        return Particles(*(v.to(device=device, dtype=dtype) for v in made))

    def _centres(
        self,
        count: int,
        low: Tensor,
        high: Tensor,
        ends: tuple[float, float],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        options = {"generator": generator, "dtype": torch.float64}
        if generator is not None:
            options["device"] = generator.device
        cells = torch.stack([torch.rand(count, **options).argsort() for _ in low], 1)
        u = ((cells + torch.rand(count, len(low), **options)) / max(count, 1)).cpu()
        R = ends[0] * (ends[1] / ends[0]) ** torch.rand(count, **options).cpu()
        inset = torch.zeros(len(low), dtype=torch.float64)
        inset[: self.axes] = 1.0
        margin = R[:, None] * inset
        return low + margin + u * (high - low - 2 * margin), R

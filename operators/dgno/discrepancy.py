"""What a trained decoder is off by: a normal field, from a few references that training did not see."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .sampling import normals

__all__ = ["Discrepancy"]


class Discrepancy:
    """u − û at points, for a solution u and the model's û of the same input:

        u = û + m + Σ_k c_k φ_k + e,      c ~ N(0, I),   e independent between points

    m is the mean over the references, φ_k the first directions of what differs between them (times their
    deviations), and e has what is left of the mean square at each point. `Posterior` adds its covariance
    to that of sensors and learns c from them; `predict(delta=…)` draws it.

    Args:
        x: points (n, D).
        off: u − û of S references there, (S, C, n); or (S, n).
        rank: number of directions; default a quarter of S, at most 8. With 0 points are independent.
        of: the observable.

    Raises:
        InputError: fewer than two references, other points, numbers that are not finite, a rank that
            so many references do not have.

    Source: Kaipio & Somersalo 2007 (errors of approximation in inverse problems).
    """

    def __init__(self, x: Tensor, off: Tensor, rank: int | None = None, of: str = "u") -> None:
        off = off.detach()[:, None] if off.ndim == 2 else off.detach()
        if off.ndim != 3 or len(off) < 2 or x.ndim != 2 or off.shape[-1] != len(x):
            expected = f"u − û of two references or more, (S, C, {len(x)})"
            raise InputError(message("Discrepancy", expected, off, "Compare at these points"))
        if not bool(torch.isfinite(off).all()):
            raise InputError(message("Discrepancy", "finite numbers", "others", "Leave them out"))
        S = len(off)
        rank = min(8, S // 4) if rank is None else rank
        if not 0 <= rank < S:
            fix = "Give more references"
            raise InputError(message("Discrepancy", f"a rank in [0, {S - 1}]", rank, fix))
        self.x, self.of = x.detach(), of
        self.mean = off.mean(0)
        # The mean of S references is itself uncertain by a share 1/S of the covariance.
        flat = (off - self.mean).flatten(1).double() * ((1 + 1 / S) / (S - 1)) ** 0.5
        _, size, direction = torch.linalg.svd(flat, full_matrices=False)
        modes = size[:rank, None] * direction[:rank]
        rest = (flat.square().sum(0) - modes.square().sum(0)).clamp_min(0).sqrt()
        self.modes = modes.unflatten(1, off.shape[1:]).to(off)
        """φ, (rank, C, n)."""
        self.rest = rest.unflatten(0, off.shape[1:]).to(off)
        """Deviation of e, (C, n)."""

    @property
    def std(self) -> Tensor:
        """Standard deviation around the mean, (C, n)."""
        return (self.modes.square().sum(0) + self.rest.square()).sqrt()

    def at(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C, n), modes (rank, C, n) and rest (C, n) at points (n, D), each from the nearest one of
        its own, in the precision and on the device of x."""
        if x.ndim != 2 or x.shape[1] != self.x.shape[1]:
            expected = f"points (n, {self.x.shape[1]})"
            raise InputError(message("Discrepancy.at", expected, x, "Give those of one field"))
        near = torch.cdist(x, self.x.to(x)).argmin(1)
        mean, modes, rest = (v.to(x)[..., near] for v in (self.mean, self.modes, self.rest))
        return mean, modes, rest

    def learned(self, x: Tensor, noise: Tensor) -> Learned:
        """What sensors at points (n, D) with a covariance of noise (C·n, C·n) say of it."""
        mean, modes, rest = (v.double() for v in self.at(x))
        modes, noise = modes.flatten(1), noise.double() + rest.flatten().square().diag()
        against = torch.linalg.solve(noise, modes.mT)  # N⁻¹ Φ
        eye = torch.eye(len(modes), dtype=noise.dtype, device=noise.device)
        precision = torch.linalg.cholesky(eye + modes @ against)
        return Learned(
            mean.flatten(),
            torch.linalg.cholesky(noise + modes.mT @ modes),
            torch.cholesky_solve(against.mT, precision),
            torch.linalg.solve_triangular(precision.mT, eye, upper=True),
        )

    def draw(
        self,
        x: Tensor,
        shape: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        c: Tensor | None = None,
    ) -> Tensor:
        """Samples (*shape, C, n) at points (n, D); c, (*shape, rank), if it is known."""
        mean, modes, rest = self.at(x)
        if c is None:
            c = normals((*shape, len(modes)), x, generator)
        e = normals((*shape, *rest.shape), x, generator)
        return mean + torch.tensordot(c, modes, 1) + rest * e


@dataclasses.dataclass(frozen=True)
class Learned:
    """What sensors say of a `Discrepancy`, in float64; r = values − û − m at the sensors."""

    mean: Tensor
    """m there, (C·n,)."""
    root: Tensor
    """L, L Lᵀ the covariance of r with c unknown."""
    gain: Tensor
    """Mean of c given r over r, (rank, C·n)."""
    spread: Tensor
    """A root of the covariance of c given r."""

"""Which parameters the data of a probe can tell, before anything is measured.

    C = (Jᵀ J)⁻¹,    J = dr/du,    r in units of its noise                σ_p = |dp/du| √C_uu

C is the smallest covariance that an unbiased estimate can have (Cramér–Rao, independent normal noise).
Directions that change no residual have infinite variance; they show as such, and by name.

Source: Kay 1993 (Fundamentals of Statistical Signal Processing), Sec. 3.7.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .probe import Probe
from .residuals import Noise, Residuals

__all__ = ["Identifiability", "from_jacobian", "identifiability"]


@dataclasses.dataclass(frozen=True)
class Identifiability:
    """How well parameters can be told from data with noise."""

    deviation: dict[str, float]
    """Relative standard deviation σ_p/p of every parameter when all are unknown [-]."""
    alone: dict[str, float]
    """The same if all the others were known [-]."""
    correlation: Tensor
    """Of the estimates [-], (P, P); NaN where a variance is infinite."""
    condition: float
    """Largest over smallest singular value of J in logarithms of the parameters [-]."""
    weakest: dict[str, float]
    """The combination that is told worst: its components in logarithms, of length 1 [-]."""

    def told(self, within: float = 0.05, sigmas: float = 2.0) -> tuple[str, ...]:
        """Parameters that are within a relative error with the probability of `sigmas`."""
        return tuple(k for k, s in self.deviation.items() if sigmas * s <= within)


def identifiability(
    probe: Probe,
    values: Mapping[str, float],
    *,
    known: Mapping[str, float] | None = None,
    use: Sequence[str] = ("markers", "force"),
    noise: Noise | None = None,
) -> Identifiability:
    """What data of this kind would tell about parameters near these values; P + 1 simulations.

    Args:
        probe: sensor and motions.
        values: parameters that are unknown, and where.
        known: others that differ from what the probe was built with.
        use: data, out of "markers", "force" and "pictures".
        noise: of the data.

    Raises:
        InputError: as `Residuals`.
    """
    seen = probe.observe({**(known or {}), **values})
    r = Residuals(probe, seen, values, known=known, use=use, noise=noise)
    u = torch.zeros(len(values), dtype=torch.float64)
    return from_jacobian(r, u, r.jacobian(u))


def from_jacobian(r: Residuals, u: Tensor, J: Tensor) -> Identifiability:
    """From dr/du (R, P) of residuals at a point (P,)."""
    values = {k: float(v) for k, v in r.values(u[None]).items()}
    p = torch.tensor([values[k] for k in r.names], dtype=torch.float64)
    scaled = J * (p / r.slopes(u))  # dr/d ln p
    _, sizes, directions = torch.linalg.svd(scaled, full_matrices=False)
    # Below the error of the differences, nothing was seen.
    floor = 1e-7 * sizes[0]
    spread = directions.mT / torch.where(sizes > floor, sizes, math.nan)
    seen = sizes > floor
    known = torch.where(seen, spread, 0.0)
    covariance = known @ known.mT
    lost = (directions[~seen].square() > 1e-12).any(0)
    variance = torch.where(lost, math.inf, covariance.diagonal())
    root = variance.sqrt()
    correlation = covariance / (root[:, None] * root)
    correlation[lost], correlation[:, lost] = math.nan, math.nan
    alone = 1 / scaled.square().sum(0).sqrt()
    weak = directions[-1] * directions[-1][directions[-1].abs().argmax()].sign()
    named = (dict(zip(r.names, v.tolist(), strict=True)) for v in (root, alone, weak))
    deviation, single, weakest = named
    return Identifiability(
        deviation, single, correlation, float(sizes[0] / sizes[-1].clamp_min(1e-300)), weakest
    )

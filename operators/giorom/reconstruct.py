"""Positions of all particles from those of a few, without training.

    x_q(t) = X_q + Σ_j φ_j(X_q) (x_j(t) − X_j)        j: the k sensors nearest to X_q at the reference

The weights φ depend on the reference positions X alone, so a reconstruction is one weighted gather:
N k products per frame, whatever the number of sensors. All schemes give Σ_j φ_j = 1, hence follow
translations exactly; `AffineMLS` and `LocalSpline` follow every affine motion exactly.

Where the neighbours span fewer than D directions (a plane, a line, a point), the schemes fit the
motion along the directions there are and keep it constant across the others. A direction is missing
if the spread of the neighbours along it is less than 10⁻³ of their largest spread, so the weights of
a query beside a plane of sensors stay bounded.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, check_finite, message
from ...sim.core.neighbors import nearest

__all__ = ["AffineMLS", "FieldMap", "InverseDistance", "LocalSpline", "follow"]

RANK = 1e-6
"""Smallest ratio of variances at which a direction counts as spanned; all neighbours together count
as one point if their variance is less than this fraction of h²."""
CHUNK = 512
"""Queries whose weights are computed at once: bounds memory."""
NUGGET = 1e-8
"""Added to the diagonal of the spline's matrix, whose entries are at most 8, so that sensors may
coincide; the interpolant misses the sensors by this fraction."""


class FieldMap(abc.ABC):
    """Linear map from the positions of sensors to those of queries, fixed by a reference state.

    Args:
        reference_sensors: X_j [m], (..., n, D), leading axes are scenes.
        reference_queries: X_q [m], (..., N, D), same leading axes, dtype and device.
        neighbors: sensors k that a query listens to, 1 ≤ k ≤ n.

    Raises:
        InputError: shapes that do not fit, or more neighbours than sensors.
        StateError: NaN or infinity in the positions.

    Weights are computed in float64 and are differentiable in both reference positions, with the
    neighbours, and the directions that count as spanned, held fixed.
    """

    def __init__(
        self, reference_sensors: Tensor, reference_queries: Tensor, neighbors: int
    ) -> None:
        X, Q = reference_sensors, reference_queries
        shapes = [(*t.shape[:-2], *t.shape[-1:]) for t in (X, Q)]
        if X.ndim < 2 or Q.ndim != X.ndim or shapes[0] != shapes[1]:
            raise InputError(
                message(
                    type(self).__name__,
                    "sensors (..., n, D) and queries (..., N, D) of the same scenes",
                    f"{tuple(X.shape)} and {tuple(Q.shape)}",
                )
            )
        self.sensors, self.queries = X, Q
        x, q = X.reshape(-1, X.shape[-1]), Q.reshape(-1, X.shape[-1])
        scenes = torch.arange(X.shape[:-2].numel(), device=X.device)
        owner = [scenes.repeat_interleave(count) for count in (Q.shape[-2], X.shape[-2])]
        self.index, _ = nearest(q, x, neighbors, *owner)
        parts = [
            self._weights(x[i].double() - p[:, None].double())
            for i, p in zip(self.index.split(CHUNK), q.split(CHUNK), strict=True)
        ]
        self.weights: Tensor = torch.cat(parts).to(X.dtype)
        """φ [-], (scenes · N, k), of the sensors `index` among scenes · n."""

    @abc.abstractmethod
    def _weights(self, offset: Tensor) -> Tensor:
        """Weights (N, k) from X_j − X_q [m], (N, k, D) in float64."""

    def reconstruct(self, sensors: Tensor) -> Tensor:
        """Positions of the queries.

        Args:
            sensors: current positions x_j [m], (..., *scenes, n, D); further leading axes, such as
                time, share the weights.

        Returns:
            Positions x_q [m], (..., *scenes, N, D).

        Raises:
            InputError: sensors of another shape than the reference.
            StateError: NaN or infinity in the positions.

        Differentiable in `sensors`, and in the reference positions through the weights; once.
        """
        return self.queries + self.gather(sensors, self.weights)

    def gather(self, sensors: Tensor, weights: Tensor) -> Tensor:
        """Σ_j w_j (x_j − X_j) with any weights (scenes · N, k), shape (..., *scenes, N, D)."""
        where, X = type(self).__name__, self.sensors
        if sensors.shape[-X.ndim :] != X.shape or sensors.dtype != X.dtype:
            expected = f"sensors (..., {', '.join(map(str, X.shape))}) {X.dtype}"
            raise InputError(message(where, expected, sensors))
        check_finite(where, sensors=sensors)
        lead, D = sensors.shape[: -X.ndim], X.shape[-1]
        # One table row per sensor holds all frames: each weight is read once.
        table = (sensors - X).reshape(lead.numel(), -1, D).transpose(0, 1).flatten(1)
        out = nn.functional.embedding_bag(
            self.index, table, mode="sum", per_sample_weights=weights.contiguous()
        )
        out = out.unflatten(1, (lead.numel(), D)).transpose(0, 1)
        return out.reshape(*lead, *self.queries.shape)


def _scaled(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets over the distance h of the farthest neighbour, and h [m], (N, 1, 1)."""
    h = offset.square().sum(-1).amax(-1)[:, None, None]
    h = torch.where(h > 0, h, torch.ones_like(h)).sqrt()
    return offset / h, h


def _linear(offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Affine basis about the neighbours' mean, along their principal axes.

    Returns:
        The basis at the neighbours (N, k, 1 + D) and at the query (N, 1 + D), zero for directions
        the neighbours do not span, and the axes (N, D, D), zero columns for those.
    """
    mean = offset.mean(1, keepdim=True)
    d = offset - mean
    with torch.no_grad():  # the fit does not depend on the choice of axes among those spanned
        variance, axes = torch.linalg.eigh(d.mT @ d)
        axes = axes * (variance > RANK * variance[:, -1:].clamp_min(RANK))[:, None]
    here = nn.functional.pad(d @ axes, (1, 0), value=1.0)
    there = nn.functional.pad((-mean @ axes)[:, 0], (1, 0), value=1.0)
    return here, there, axes


def _missing(axes: Tensor) -> Tensor:
    """Diagonal matrices (N, 1 + D, 1 + D) with 1 for directions that are not spanned."""
    return torch.diag_embed(nn.functional.pad((axes == 0).all(1).to(axes.dtype), (1, 0)))


def _inverse_distance(offset: Tensor, power: float, softening: float) -> Tensor:
    """(|ξ|² + s²)^(−p/2) for ξ = offset / h."""
    xi, _ = _scaled(offset)
    return (xi.square().sum(-1) + softening**2).pow(-power / 2)


class InverseDistance(FieldMap):
    """Mean of the neighbours' displacements weighted by inverse square distance.

        φ_j ∝ 1 / (|X_j − X_q|² + (10⁻³ h)²),   h: distance of the farthest neighbour

    Source: Shepard 1968.
    """

    def __init__(
        self, reference_sensors: Tensor, reference_queries: Tensor, neighbors: int = 8
    ) -> None:
        super().__init__(reference_sensors, reference_queries, neighbors)

    def _weights(self, offset: Tensor) -> Tensor:
        w = _inverse_distance(offset, 2, 1e-3)
        return w / w.sum(1, keepdim=True)


class AffineMLS(FieldMap):
    """Moving least squares with an affine basis.

        min over a, B of Σ_j w_j |a + B (X_j − X_q) − u_j|²,   u_q = a,   F_q = I + B
        w_j = (|X_j − X_q|² / h² + 0.03²)⁻²,   h: distance of the farthest neighbour

    Exact for affine motions, of which F is the deformation gradient.
    Source: Lancaster & Salkauskas 1981; Levin 1998.
    """

    def __init__(
        self, reference_sensors: Tensor, reference_queries: Tensor, neighbors: int = 16
    ) -> None:
        self._gradients: list[Tensor] = []
        super().__init__(reference_sensors, reference_queries, neighbors)
        self.gradient: Tensor = torch.cat(self._gradients).to(self.weights.dtype)
        """∇φ [1/m], (scenes · N, k, D): B = Σ_j u_j ∇φ_jᵀ."""

    def _weights(self, offset: Tensor) -> Tensor:
        xi, h = _scaled(offset)
        w = _inverse_distance(offset, 4, 0.03)[..., None]
        here, there, axes = _linear(xi)
        normal = here.mT @ (w * here) + _missing(axes)
        fit = torch.linalg.solve(normal, (w * here).mT)
        self._gradients.append((axes @ fit[:, 1:] / h).mT)
        return (there[:, None] @ fit)[:, 0]

    def deformation_gradient(self, sensors: Tensor) -> Tensor:
        """F = ∂x/∂X at the queries [-], (..., *scenes, N, D, D), I across missing directions.

        Args:
            sensors: as in `reconstruct`, in which this is differentiable.
        """
        columns = [self.gather(sensors, g) for g in self.gradient.unbind(-1)]
        return torch.stack(columns, -1) + torch.eye(len(columns)).to(sensors)


class LocalSpline(FieldMap):
    """Cubic polyharmonic spline with an affine part through the neighbours.

        ⎡K + εI  P⎤ ⎡φ⎤   ⎡r³(X_q)⎤        K_ij = |X_i − X_j|³,   P_j = (1, X_j)
        ⎣Pᵀ      0⎦ ⎣μ⎦ = ⎣P(X_q) ⎦

    Among all interpolants that reproduce affine motions the one of least bending energy; it passes
    through the sensors and resolves curvature, which moving least squares of first order averages
    away. Exact for affine motions.

    Source: Duchon 1977; local form: Fornberg & Flyer 2015 (RBF-FD with polyharmonic splines).
    """

    def __init__(
        self, reference_sensors: Tensor, reference_queries: Tensor, neighbors: int = 24
    ) -> None:
        super().__init__(reference_sensors, reference_queries, neighbors)

    def _weights(self, offset: Tensor) -> Tensor:
        xi, _ = _scaled(offset)
        here, there, axes = _linear(xi)
        k = xi.shape[1]
        K = torch.cdist(xi, xi, compute_mode="donot_use_mm_for_euclid_dist") ** 3
        K = K + NUGGET * torch.eye(k).to(xi)
        top = torch.cat([K, here], 2)
        A = torch.cat([top, torch.cat([here.mT, _missing(axes)], 2)], 1)
        b = torch.cat([torch.linalg.vector_norm(xi, dim=-1) ** 3, there], 1)
        return torch.linalg.solve(A, b)[:, :k]


def follow(
    sensors: Tensor,
    queries: Tensor,
    *,
    every: int | None = None,
    scheme: type[FieldMap] = LocalSpline,
    neighbors: int = 24,
) -> Tensor:
    """Positions of the queries along a trajectory of the sensors.

        x_q(t) = x_q(a) + Σ_j φ_j(x(a)) (x_j(t) − x_j(a)),     a = every · ⌊(t − 1) / every⌋

    With `every` the reference follows the motion (updated Lagrangian): the particles that have come
    together are the neighbours then. Better where they mix, as in a splashing liquid; for elastic
    bodies the first frame as the only reference is better, since nothing accumulates.

    Args:
        sensors: positions x_j [m], (T, ..., n, D); frame 0 is the reference.
        queries: reference positions X_q [m], (..., N, D).
        every: frames until a new reference; None: never.
        scheme: class of the map.
        neighbors: as in the scheme.

    Returns:
        Positions [m], (T, ..., N, D); frame 0 is `queries`.

    Raises:
        InputError: no frames, `every` below 1, or shapes that do not fit.
        StateError: NaN or infinity in the positions.

    Differentiable in both arguments, once, also through the weights of later references.
    Source: total and updated Lagrangian description, e.g. Bathe 1996, §6.2.
    """
    if sensors.ndim < 3 or not len(sensors) or (every is not None and every < 1):
        got = f"sensors {tuple(sensors.shape)}, every {every}"
        raise InputError(message("follow", "sensors (T ≥ 1, ..., n, D) and every ≥ 1", got))
    frames = len(sensors)
    parts = [queries[None]]
    for a in range(0, frames - 1, every or frames):
        field = scheme(sensors[a], parts[-1][-1], neighbors)
        parts.append(field.reconstruct(sensors[a + 1 : a + 1 + (every or frames)]))
    return torch.cat(parts)
